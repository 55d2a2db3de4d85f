from django.apps import AppConfig


class ActivityConfig(AppConfig):
    name = "keyportal.activity"
    label = "activity"
