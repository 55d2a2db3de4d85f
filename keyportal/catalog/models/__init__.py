"""The tables of model servers, served models and routes, and the version of all of it."""

from keyportal.catalog.models.served_model import (
    NameTaken,
    Route,
    RouteQuerySet,
    ServedModel,
    ServedModelQuerySet,
)
from keyportal.catalog.models.upstream import (
    BUILT_IN_URL,
    Upstream,
    validate_absolute_path,
    validate_base_url,
)
from keyportal.catalog.models.version import CatalogVersion, change_version

__all__ = [
    "BUILT_IN_URL",
    "CatalogVersion",
    "NameTaken",
    "Route",
    "RouteQuerySet",
    "ServedModel",
    "ServedModelQuerySet",
    "Upstream",
    "change_version",
    "validate_absolute_path",
    "validate_base_url",
]
