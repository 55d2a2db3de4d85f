from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "keyportal.catalog"
    label = "catalog"

    def ready(self) -> None:
        from keyportal.catalog import receivers  # noqa: F401 - connects the receivers
