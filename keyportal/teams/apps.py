from django.apps import AppConfig


class TeamsConfig(AppConfig):
    name = "keyportal.teams"
    label = "teams"
