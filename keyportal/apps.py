from django.apps import AppConfig


class KeyportalConfig(AppConfig):
    """Registers the system checks, which read settings and models of several apps."""

    name = "keyportal"

    def ready(self) -> None:
        from keyportal import checks  # noqa: F401 - registers them
