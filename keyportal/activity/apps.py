from django.apps import AppConfig


class ActivityConfig(AppConfig):
    name = "keyportal.activity"
    label = "activity"

    def ready(self) -> None:
        from keyportal.activity import signals  # noqa: F401 - connects the receivers
