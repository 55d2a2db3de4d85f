"""The tables of management keys, and of people and groups that a directory provisions."""

from keyportal.api.models.management_key import MAX_PER_TEAM, ManagementKey
from keyportal.api.models.provisioned import ProvisionedGroup, ProvisionedUser

__all__ = [
    "MAX_PER_TEAM",
    "ManagementKey",
    "ProvisionedGroup",
    "ProvisionedUser",
]
