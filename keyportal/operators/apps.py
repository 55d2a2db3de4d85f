from django.apps import AppConfig


class OperatorsConfig(AppConfig):
    name = "keyportal.operators"

    def ready(self) -> None:
        import keyportal.operators.receivers  # noqa: F401 - connects the receivers
