from django.apps import AppConfig


class KeysConfig(AppConfig):
    name = "keyportal.keys"
    label = "keys"

    def ready(self) -> None:
        from keyportal.keys import receivers  # noqa: F401 - connects the receiver
