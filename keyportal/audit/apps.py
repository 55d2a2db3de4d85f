from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "keyportal.audit"

    def ready(self) -> None:
        import keyportal.audit.receivers  # noqa: F401 - connects the receivers
