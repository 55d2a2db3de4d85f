from django.apps import AppConfig


class KeyportalConfig(AppConfig):
    """Registers the system checks, which look at settings and at several apps."""

    name = "keyportal"

    def ready(self) -> None:
        from keyportal import checks  # noqa: F401 - registers them
