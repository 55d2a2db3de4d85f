from django.apps import AppConfig


class CatalogConfig(AppConfig):
    name = "keyportal.catalog"
    label = "catalog"
