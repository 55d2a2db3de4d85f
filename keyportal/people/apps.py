from django.apps import AppConfig


class PeopleConfig(AppConfig):
    name = "keyportal.people"
