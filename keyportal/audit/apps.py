from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "keyportal.audit"

    def ready(self) -> None:
        # Importing them connects the receivers.
        from keyportal.audit import factors, receivers  # noqa: F401
