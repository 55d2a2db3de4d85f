from django.apps import AppConfig


class TeamsConfig(AppConfig):
    name = "keyportal.teams"
    label = "teams"

    def ready(self) -> None:
        from keyportal.teams import signals  # noqa: F401 - connects the receivers
