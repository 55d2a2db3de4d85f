"""The table of management keys."""

from keyportal.api.models.management_key import MAX_PER_TEAM, ManagementKey

__all__ = [
    "MAX_PER_TEAM",
    "ManagementKey",
]
