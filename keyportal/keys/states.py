"""Whether a key works, or the first reason why it is refused: of one key, and as a condition.

The gateway judges keys in a query of its own; this is what people and programs are told of them.
"""

from django.db.models import Exists, OuterRef, Q, TextChoices
from django.utils import timezone

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership


class State(TextChoices):
    """What works, and then the reasons: of several that hold, the first is told."""

    ACTIVE = "active"
    DISABLED = "disabled"
    EXPIRED = "expired"
    TEAM_OFF = "team off"
    OWNERLESS = "ownerless"


def state_of(key: ApiKey) -> State:
    """`key` comes from `for_display`, with its team."""
    if key.disabled_at:
        return State.DISABLED
    if key.has_expired:
        return State.EXPIRED
    if not key.team.is_active:
        return State.TEAM_OFF
    return State.OWNERLESS if key.has_lost_its_owner else State.ACTIVE


def in_state(state: State) -> Q:
    """The condition on keys of which `state_of` says this."""
    found = Q()
    for reason, condition in _reasons().items():
        if reason == state:
            return found & condition
        found &= ~condition
    return found


def owner_left() -> Q:
    """The condition on keys that have lost their owner."""
    theirs = Membership.objects.filter(team=OuterRef("team"), user=OuterRef("owner"))
    return Q(owner__is_active=False) | ~Q(Exists(theirs))


def _reasons() -> dict[State, Q]:
    return {
        State.DISABLED: Q(disabled_at__isnull=False),
        State.EXPIRED: Q(expires_at__lte=timezone.now()),
        State.TEAM_OFF: Q(team__is_active=False),
        State.OWNERLESS: owner_left(),
    }
