from django.apps import AppConfig


class TeamsConfig(AppConfig):
    name = "keyportal.teams"
    label = "teams"

    def ready(self) -> None:
        from keyportal.teams import lookups, signals  # noqa: F401 - registers and connects them
