from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "keyportal.keys"
    label = "keys"
