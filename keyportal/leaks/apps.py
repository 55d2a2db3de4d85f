from django.apps import AppConfig


class LeaksConfig(AppConfig):
    name = "keyportal.leaks"
