"""What stands above every page of a team whose keys leaked, for those who may act on it."""

from functools import partial
from typing import NamedTuple

from django.http import HttpRequest

from keyportal.keys.forms import new_nonce
from keyportal.keys.models import ApiKey, Remnant
from keyportal.keys.replacing import obstacles
from keyportal.teams.access import may_change
from keyportal.teams.models import Membership

# A whole list of them would push the page away.
SHOWN, DELETED_SHOWN = 5, 3


class Deleted(NamedTuple):
    key: Remnant
    obstacles: list[str]
    """Why there can be no new one like it now."""


class Leaks(NamedTuple):
    keys: list[ApiKey]
    more: int
    deleted: list[Deleted]
    more_deleted: int


def banner(request: HttpRequest) -> dict[str, object]:
    """For every page of a team; asked of the database by those alone that show it."""
    membership: Membership | None = getattr(request, "membership", None)
    if membership is None:
        return {}
    return {"leaks": partial(leaks_of, membership), "new_nonce": new_nonce}


def leaks_of(membership: Membership) -> Leaks:
    """Those that this member may act on."""
    keys = awaiting_rotation(membership)
    remnants = Remnant.objects.changeable_by(membership)
    deleted = [
        Deleted(one, obstacles(one, membership)) for one in remnants.fairly()[:DELETED_SHOWN]
    ]
    # Nearly always there are none, and they are not counted.
    number = remnants.count() if len(deleted) == DELETED_SHOWN else len(deleted)
    return Leaks(keys[:SHOWN], max(0, len(keys) - SHOWN), deleted, number - len(deleted))


def awaiting_rotation(membership: Membership) -> list[ApiKey]:
    """Reported keys that live, the latest report first."""
    reported = ApiKey.objects.of(membership.team).filter(reported_at__isnull=False)
    keys = reported.for_display().order_by("-reported_at", "pk")
    return [key for key in keys if may_change(membership, key)]
