from django.apps import AppConfig


class GatewayConfig(AppConfig):
    name = "keyportal.gateway"
    label = "gateway"

    def ready(self) -> None:
        from keyportal import checks  # noqa: F401 - registers them
