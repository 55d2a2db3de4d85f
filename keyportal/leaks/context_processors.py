"""What stands above every page of a team whose keys leaked, for those who may act on it."""

from functools import partial
from typing import NamedTuple

from django.http import HttpRequest

from keyportal.keys.forms.base import new_nonce
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership

MAX_KEYS = 5  # A whole list of them would push the page away.


class ReportedKeys(NamedTuple):
    keys: list[ApiKey]
    more: int


def banner(request: HttpRequest) -> dict[str, object]:
    """For every page of a team; asked of the database by those alone that show it."""
    membership: Membership | None = getattr(request, "membership", None)
    if membership is None:
        return {}
    return {"leaks": partial(reported_keys, membership), "new_nonce": new_nonce}


def reported_keys(membership: Membership) -> ReportedKeys:
    """Those that this member may act on. Nearly always there are none, and they are not counted."""
    reported = ApiKey.objects.changeable_by(membership).filter(reported_at__isnull=False)
    keys = [*reported.for_display().order_by("-reported_at", "pk")[:MAX_KEYS]]
    return ReportedKeys(keys, max(0, reported.count() - MAX_KEYS) if len(keys) == MAX_KEYS else 0)
