from django.apps import AppConfig


class PeopleConfig(AppConfig):
    name = "keyportal.people"

    def ready(self) -> None:
        from keyportal.people import receivers  # noqa: F401 - connects them
