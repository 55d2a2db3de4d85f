"""What stands above every page of a team whose keys leaked, for those who may act on it."""

from functools import partial
from typing import NamedTuple, TypeVar

from django.db.models import Model, QuerySet
from django.http import HttpRequest

from keyportal.keys.forms import new_nonce
from keyportal.keys.models import ApiKey, Remnant
from keyportal.keys.replacing import obstacles
from keyportal.teams.models import Membership

Row = TypeVar("Row", bound=Model)
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
    reported = ApiKey.objects.changeable_by(membership).filter(reported_at__isnull=False)
    keys, more = _first(reported.for_display().order_by("-reported_at", "pk"), SHOWN)
    remnants, more_deleted = _first(
        Remnant.objects.changeable_by(membership).fairly(), DELETED_SHOWN
    )
    deleted = [Deleted(one, obstacles(one, membership)) for one in remnants]
    return Leaks(keys, more, deleted, more_deleted)


def _first(rows: QuerySet[Row], most: int) -> tuple[list[Row], int]:
    """And how many there are beyond. Nearly always there are none, and they are not counted."""
    first = [*rows[:most]]
    return first, max(0, rows.count() - most) if len(first) == most else 0
