"""The management API's tables."""

from keyportal.api.models.management_key import MOST, ManagementKey

__all__ = [
    "MOST",
    "ManagementKey",
]
