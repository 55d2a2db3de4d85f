"""What can be wrong with a working key, and how to fix it."""

from datetime import datetime, timedelta
from itertools import islice
from typing import NamedTuple

from django.db.models import Exists, OuterRef, Q, TextChoices

from keyportal.audit.models import Tombstone
from keyportal.database.clock import database_now
from keyportal.keys.last_use import unused_models
from keyportal.keys.models import ApiKeyQuerySet, Secret
from keyportal.keys.rules.violations import NO_KEYS, breaks_policy, is_working
from keyportal.keys.status import is_ownerless
from keyportal.teams.models import Team
from keyportal.usage.new_networks import new_networks

IDLE_AFTER = timedelta(days=90)
MAX_NEW_NETWORKS = 1000
MIN_AGE = timedelta(days=7)  # A younger key had no time to call all its models.


class Finding(TextChoices):
    """The most urgent first."""

    REPORTED = "reported", "Reported as leaked"
    OWNER_LEFT = "owner-left", "Owner left"
    NEW_ADDRESS = "new-address", "New address"
    BREAKS_POLICY = "breaks-policy", "Violates the policy"
    ROTATION_DUE = "rotation-due", "Rotation due"
    NEVER_EXPIRES = "never-expires", "Never expires"
    TOO_WIDE = "too-wide", "Wider than used"
    IDLE = "idle", "Idle"

    @property
    def is_urgent(self) -> bool:
        """Whether it can harm the team, and is not only untidy."""
        return self in (Finding.REPORTED, Finding.OWNER_LEFT, Finding.NEW_ADDRESS)


class Action(NamedTuple):
    """A button that fixes a finding. `path` is the last part of its URL, after the key's."""

    label: str
    path: str
    is_dialog: bool = True
    is_admin_only: bool = False
    """Whether only admins can do it if the key is managed."""


DISABLE, DELETE = Action("Disable", "disable/"), Action("Delete", "delete/")
ROTATE, NARROW = Action("Rotate", "rotate/"), Action("Narrow", "permissions/", is_admin_only=True)
HAND_OVER = Action("Hand over", "hand-over/", is_admin_only=True)
EXPIRY = Action("Set expiry", "expiry/", is_admin_only=True)
OPEN = Action("Open", "", is_dialog=False)
ACTIONS: dict[Finding, tuple[Action, ...]] = {
    Finding.REPORTED: (ROTATE, DELETE),
    Finding.OWNER_LEFT: (HAND_OVER, ROTATE, DELETE),
    Finding.NEW_ADDRESS: (NARROW, ROTATE),
    Finding.ROTATION_DUE: (ROTATE,),
    Finding.NEVER_EXPIRES: (EXPIRY,),
    Finding.TOO_WIDE: (NARROW,),
    Finding.IDLE: (DISABLE, DELETE),
}
# How to fix a violation of the policy, by the column that breaks it.
FIXES = {"expires_at": EXPIRY, "allowed_models": NARROW, "endpoints": NARROW, "name": OPEN}


class Findings(NamedTuple):
    """A condition on a team's keys for each finding, and the details."""

    conditions: dict[Finding, Q]
    networks: dict[str, list[str]]
    unused: dict[str, list[str]]

    @property
    def any(self) -> Q:
        result = NO_KEYS
        for condition in self.conditions.values():
            result |= condition
        return result


def find_issues(team: Team, keys: ApiKeyQuerySet) -> Findings:
    """`keys` are keys of the team. At most 12 queries, for any number of keys."""
    now = database_now()
    works = is_working()
    networks = dict(islice(new_networks(team, now).items(), MAX_NEW_NETWORKS))
    older_keys = keys.filter(works, created_at__lt=now - MIN_AGE)
    unused = unused_models(team, older_keys, now - IDLE_AFTER)
    return Findings(
        {
            Finding.REPORTED: Q(reported_at__isnull=False),
            Finding.OWNER_LEFT: is_ownerless(),
            Finding.NEW_ADDRESS: works & Q(public_id__in=[*networks]),
            Finding.BREAKS_POLICY: works & breaks_policy(team.policy, keys),
            Finding.ROTATION_DUE: works & _is_rotation_due(team, now),
            Finding.NEVER_EXPIRES: works & Q(expires_at=None),
            Finding.TOO_WIDE: works & Q(public_id__in=[*unused]),
            Finding.IDLE: works & _is_idle(now),
        },
        networks,
        unused,
    )


def _is_rotation_due(team: Team, now: datetime) -> Q:
    if team.policy.rotation_days is None:
        return NO_KEYS
    oldest = now - timedelta(days=team.policy.rotation_days)
    newer = Secret.objects.filter(key=OuterRef("pk"), created_at__gte=oldest)
    return Q(created_at__lt=oldest) & ~Q(Exists(newer))


def _is_idle(now: datetime) -> Q:
    """For a key that was never used, its age counts. Use of a rotated secret counts as use."""
    since = now - IDLE_AFTER
    used = Secret.objects.filter(key=OuterRef("pk"), last_used_at__gte=since)
    tombstones = Tombstone.objects.filter(team_slug=OuterRef("team__history_slug"))
    used_before_rotation = tombstones.filter(
        public_id=OuterRef("public_id"), last_used_at__gte=since
    )
    return Q(created_at__lt=since) & ~Q(Exists(used)) & ~Q(Exists(used_before_rotation))
