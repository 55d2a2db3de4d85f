"""What is kept for a while of a key that a report of a leak has deleted: all that another one like
it needs, and nothing that could be called with."""

from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from django.db import models
from django.db.models import F, Window
from django.db.models.functions import RowNumber
from django.utils import timezone

from keyportal.keys import secret
from keyportal.keys.grants import CEILINGS
from keyportal.keys.letter_counts import answerable
from keyportal.keys.permissions import Endpoints, PermissionsColumns, PermissionsField
from keyportal.teams.access import changeable
from keyportal.teams.limits import LimitsField
from keyportal.teams.models import Membership, Team, User

if TYPE_CHECKING:
    from keyportal.keys.models import ApiKey, Secret

KEPT = timedelta(days=30)
# Of those that one person answers for: new keys are free, and each page of the team looks here.
MOST = 100
COLUMNS = (
    "team_id",
    "owner_id",
    "name",
    "public_id",
    "description",
    "tags",
    "allowed_models",
    "endpoints",
    "networks",
    "expires_at",
    "limits",
)
TAKEN = ("granted_limits", *CEILINGS.values(), "is_held")
"""What an admin took from the key, and takes from one in its place as well."""


class RemnantQuerySet(models.QuerySet["Remnant"]):
    def of(self, team: Team) -> "RemnantQuerySet":
        """Those whose time is not over; they are cleaned away a little later."""
        return self.filter(team=team, reported_at__gt=timezone.now() - KEPT)

    def keep(self, key: "ApiKey", leaked: "Secret", reporter: str) -> None:
        """In the transaction that deletes the key."""
        as_it_was = {column: getattr(key, column) for column in (*COLUMNS, *TAKEN)}
        kept = self.create(
            **as_it_was,
            is_disabled=key.disabled_by in (key.DisabledBy.OWNER, key.DisabledBy.ADMIN),
            masked=secret.mask(leaked.prefix, key.public_id, leaked.last4),
            reporter=reporter,
            person=answerable(key),
        )
        theirs = self.filter(team=key.team, person=kept.person).order_by("-pk")
        self.filter(pk__in=[*theirs.values_list("pk", flat=True)[MOST:]]).delete()

    def changeable_by(self, membership: Membership) -> "RemnantQuerySet":
        return changeable(self.of(membership.team), membership)

    def fairly(self) -> "RemnantQuerySet":
        """The latest that each person answers for comes before the second of anybody: whoever
        reports keys of their own in number hides nobody else's."""
        nth = Window(RowNumber(), partition_by="person", order_by=F("pk").desc())
        return self.annotate(nth=nth).select_related("owner").order_by("nth", "-pk")


class Remnant(models.Model):
    """It goes when it is replaced or dismissed, or by itself when its time is over."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="+")
    owner = models.ForeignKey(User, models.CASCADE, related_name="+")
    name = models.CharField(max_length=64)
    public_id = models.CharField(max_length=8)
    masked = models.CharField(max_length=64)
    reported_at = models.DateTimeField(auto_now_add=True)
    reporter = models.CharField(max_length=32)
    person = models.CharField(max_length=150, help_text="Who could have readied it for the report.")
    description = models.CharField(max_length=500, blank=True)
    tags = models.JSONField(default=list)
    allowed_models = models.JSONField(default=list)
    endpoints = models.CharField(max_length=16, choices=Endpoints)
    networks = models.JSONField(default=list)
    expires_at = models.DateTimeField(null=True)
    limits = LimitsField()
    granted_limits = LimitsField(null=True, default=None)
    granted_permissions = PermissionsField(null=True, default=None)
    granted_expires_at = models.DateTimeField(null=True)
    is_disabled = models.BooleanField(help_text="Somebody had disabled it before.")
    is_held = models.BooleanField(help_text="That was an admin or operator.")

    permissions = PermissionsColumns()

    objects = RemnantQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [models.Index(fields=["team", "person", "-id"], name="remnant_of_team")]

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()
