from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "keyportal.api"
    label = "api"
