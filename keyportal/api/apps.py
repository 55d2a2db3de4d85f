from django.apps import AppConfig


class ApiConfig(AppConfig):
    name = "keyportal.api"
    label = "api"

    def ready(self) -> None:
        from keyportal.api import receivers  # noqa: F401 - connects the receiver
