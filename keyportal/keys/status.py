"""The state of a key, and the badges beside its name."""

from collections.abc import Iterator
from datetime import timedelta
from typing import NamedTuple

from django.db.models import Exists, OuterRef, Q, TextChoices
from django.db.models.functions import Now

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership

SOON = timedelta(days=14)


class Badge(NamedTuple):
    text: str
    kind: str = ""
    """A class of the style sheet: empty for a warning, or `calm` or `alarm`."""
    title: str = ""


def badges(key: ApiKey) -> list[Badge]:
    """The most serious first. `key` comes from `for_display`."""
    of_program = [Badge("Program", "calm", "It ends with the session in which it was let in.")]
    managed = [Badge("Managed", "calm", "Only admins can change what it may do.")]
    return [
        *_status_badges(key),
        *_expiry_badges(key),
        *_model_badges(key),
        *of_program * key.is_of_program,
        *managed * key.is_managed,
    ]


def _status_badges(key: ApiKey) -> Iterator[Badge]:
    if key.reported_at:
        yield Badge("Leaked", "alarm", "It was reported as leaked.")
    if key.disabled_by == ApiKey.DisabledBy.LEAK:
        yield Badge("Disabled", title="It is refused until it is rotated.")
    elif key.disabled_at:
        enabler = "an admin" if key.is_managed else "its owner or an admin"
        yield Badge("Disabled", title=f"It is refused until {enabler} enables it.")
    if key.is_ownerless:
        title = "Its owner was deactivated or left the team, so the key does not work."
        yield Badge("Owner left", title=title)


def _expiry_badges(key: ApiKey) -> Iterator[Badge]:
    if key.expires_at is None:
        return
    left = key.expires_at - key.read_at
    day = f"{key.expires_at:%Y-%m-%d}"
    if left <= timedelta():
        yield Badge("Expired", title=f"Since {day}")
    elif left < SOON and not key.is_of_program:
        count = round(left / timedelta(days=1))
        time = f"in {count} day{'s' * (count > 1)}" if count else "within a day"
        yield Badge(f"Expires {time}", title=f"On {day}")
    else:
        yield Badge(f"Expires {day}", "calm")


def _model_badges(key: ApiKey) -> Iterator[Badge]:
    patterns = key.allowed_models
    if not patterns:
        return
    count = len(patterns)
    is_exact = not any("*" in pattern for pattern in patterns)
    text = f"{count} model{'s' * (count > 1)}" if is_exact else "Some models"
    yield Badge(text, "calm", f"May call only {', '.join(patterns)}")


class State(TextChoices):
    """Active, or why the key does not work. If there are several reasons, the first one."""

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
    return State.OWNERLESS if key.is_ownerless else State.ACTIVE


def has_state(state: State) -> Q:
    """A condition on keys: their `state_of` is this state."""
    result = Q()
    for reason, condition in _state_conditions().items():
        if reason == state:
            return result & condition
        result &= ~condition
    return result


def is_ownerless() -> Q:
    """A condition on keys: the owner was deactivated or left the team."""
    memberships = Membership.objects.filter(team=OuterRef("team"), user=OuterRef("owner"))
    return Q(owner__is_active=False) | ~Q(Exists(memberships))


def _state_conditions() -> dict[State, Q]:
    return {
        State.DISABLED: Q(disabled_at__isnull=False),
        State.EXPIRED: Q(expires_at__lte=Now()),
        State.TEAM_OFF: Q(team__is_active=False),
        State.OWNERLESS: is_ownerless(),
    }
