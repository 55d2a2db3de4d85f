"""What can be wrong with a key that works, and what to do about it."""

from datetime import timedelta
from itertools import islice
from typing import NamedTuple

from django.db.models import Exists, OuterRef, Q, TextChoices
from django.utils import timezone

from keyportal.audit.models import Tombstone
from keyportal.keys.last_use import unused_models
from keyportal.keys.models import ApiKeyQuerySet, Secret
from keyportal.keys.rules.violations import NO_KEYS, breaks_policy, is_working
from keyportal.keys.status import is_ownerless
from keyportal.teams.models import Team
from keyportal.usage.new_networks import new_networks

IDLE_AFTER = timedelta(days=90)
MAX_NEW_NETWORKS = 1000
MIN_AGE = timedelta(days=7)  # A key younger than this has had no time to call all it is for.


class Finding(TextChoices):
    """The most urgent first."""

    REPORTED = "reported", "Reported as leaked"
    OWNER_LEFT = "owner-left", "Owner left"
    NEW_ADDRESS = "new-address", "New address"
    BREAKS_POLICY = "breaks-policy", "Breaks the policy"
    ROTATION_DUE = "rotation-due", "Rotation due"
    NEVER_EXPIRES = "never-expires", "Never expires"
    TOO_WIDE = "too-wide", "Wider than used"
    IDLE = "idle", "Idle"

    @property
    def is_urgent(self) -> bool:
        """Whether somebody may be harmed, not only the order in the house."""
        return self in (Finding.REPORTED, Finding.OWNER_LEFT, Finding.NEW_ADDRESS)


class Action(NamedTuple):
    """A way to what can be done; `path` is the last part of its address, after the key's."""

    label: str
    path: str
    is_dialog: bool = True
    is_admin_only: bool = False
    """Of a managed key, only admins do it."""


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
# What mends a breach of the policy, by the column that it is in.
FIXES = {"expires_at": EXPIRY, "allowed_models": NARROW, "endpoints": NARROW, "name": OPEN}


class Findings(NamedTuple):
    """What was found out about a team's keys: a condition for each finding, and the details."""

    conditions: dict[Finding, Q]
    networks: dict[str, list[str]]
    unused: dict[str, list[str]]

    @property
    def any(self) -> Q:
        found = NO_KEYS
        for condition in self.conditions.values():
            found |= condition
        return found


def find_issues(team: Team, keys: ApiKeyQuerySet) -> Findings:
    """`keys` are of that team. At most eleven queries, whatever their number."""
    now = timezone.now()
    works = is_working()
    networks = dict(islice(new_networks(team).items(), MAX_NEW_NETWORKS))
    settled = keys.filter(works, created_at__lt=now - MIN_AGE)
    unused = unused_models(team, settled, now - IDLE_AFTER)
    return Findings(
        {
            Finding.REPORTED: Q(reported_at__isnull=False),
            Finding.OWNER_LEFT: is_ownerless(),
            Finding.NEW_ADDRESS: works & Q(public_id__in=[*networks]),
            Finding.BREAKS_POLICY: works & breaks_policy(team.policy, keys),
            Finding.ROTATION_DUE: works & _is_rotation_due(team),
            Finding.NEVER_EXPIRES: works & Q(expires_at=None),
            Finding.TOO_WIDE: works & Q(public_id__in=[*unused]),
            Finding.IDLE: works & _is_idle(),
        },
        networks,
        unused,
    )


def _is_rotation_due(team: Team) -> Q:
    if team.policy.rotation_days is None:
        return NO_KEYS
    oldest = timezone.now() - timedelta(days=team.policy.rotation_days)
    younger = Secret.objects.filter(key=OuterRef("pk"), created_at__gte=oldest)
    return Q(created_at__lt=oldest) & ~Q(Exists(younger))


def _is_idle() -> Q:
    """Never used counts from when it was made; a secret that a rotation has ended counts too."""
    since = timezone.now() - IDLE_AFTER
    used = Secret.objects.filter(key=OuterRef("pk"), last_used_at__gte=since)
    ended = Tombstone.objects.filter(team_slug=OuterRef("team__slug"))
    used_then = ended.filter(public_id=OuterRef("public_id"), last_used_at__gte=since)
    return Q(created_at__lt=since) & ~Q(Exists(used)) & ~Q(Exists(used_then))
