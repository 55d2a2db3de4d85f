"""What a company's directory calls its people and groups, for SCIM."""

from typing import ClassVar

from django.db import models
from django.db.models.functions import Lower

from keyportal.teams.models import User

MAX_LENGTH = 254


class ProvisionedUser(models.Model):
    """A person that the directory made or changed."""

    user = models.OneToOneField(User, models.CASCADE, related_name="provisioned")
    user_name = models.CharField(max_length=MAX_LENGTH)
    external_id = models.CharField(max_length=MAX_LENGTH, blank=True)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(Lower("user_name"), name="provisioned_user_name_unique")
        ]

    def __str__(self) -> str:
        return self.user_name


class ProvisionedGroup(models.Model):
    name = models.CharField(max_length=MAX_LENGTH)
    external_id = models.CharField(max_length=MAX_LENGTH, blank=True)
    members = models.ManyToManyField(User, related_name="provisioned_groups")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(Lower("name"), name="provisioned_group_name_unique")
        ]

    def __str__(self) -> str:
        return self.name
