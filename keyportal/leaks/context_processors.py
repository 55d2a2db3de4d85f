"""The banner on every page of a team with leaked keys, for those who may rotate them."""

from functools import partial
from typing import NamedTuple

from django.http import HttpRequest

from keyportal.keys.forms.base import new_nonce
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership

MAX_KEYS = 5  # More would push the page's content out of view.


class ReportedKeys(NamedTuple):
    keys: list[ApiKey]
    more: int
    """The number of keys beyond `keys`."""


def banner(request: HttpRequest) -> dict[str, object]:
    """For every page of a team. The query runs only if a template uses `leaks`."""
    membership: Membership | None = getattr(request, "membership", None)
    if membership is None:
        return {}
    return {"leaks": partial(reported_keys, membership), "new_nonce": new_nonce}


def reported_keys(membership: Membership) -> ReportedKeys:
    """Reported keys that this member may change. Nearly always there are none: then one query,
    which does not name the columns that are shown, and so takes a third of the time."""
    reported = ApiKey.objects.changeable_by(membership).filter(reported_at__isnull=False)
    if not reported.exists():
        return ReportedKeys([], 0)
    keys = [*reported.for_display().order_by("-reported_at", "pk")[:MAX_KEYS]]
    return ReportedKeys(keys, max(0, reported.count() - MAX_KEYS) if len(keys) == MAX_KEYS else 0)
