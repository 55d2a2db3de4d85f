"""Keys that are called from where they were not called before, as far as calls are kept."""

import ipaddress
from collections import defaultdict
from datetime import datetime, timedelta

from django.db.models import Min
from django.utils import timezone

from keyportal.activity.usage import Call, CallQuerySet
from keyportal.teams.models import Team

SEARCHED = 20_000  # Calls: half of them as what is new, and at least half as what was before.
NEW_FOR = timedelta(days=1)


def network_of(address: str) -> str:
    """Its /24, or /48 for IPv6: what one office has, or one customer of a provider."""
    size = 48 if ":" in address else 24
    return str(ipaddress.ip_network(f"{address}/{size}", strict=False))


def new_networks(team: Team) -> dict[str, list[str]]:
    """By public id, the networks that a key was first seen from within the last day.

    Only keys that had been called from elsewhere before that: the first network of a key is no
    news. In a busy team, of the newest calls alone; whoever alternates between networks more
    slowly than that is told of each time. Two or three queries, whatever the number of keys.
    """
    calls = Call.objects.of(team).exclude(address=None)
    oldest, since = _moment(calls, SEARCHED), timezone.now() - NEW_FOR
    if oldest and (middle := _moment(calls, SEARCHED // 2)):
        calls, since = calls.filter(started_at__gte=oldest), max(since, middle)
    rows = calls.order_by().values_list("public_id", "address").annotate(Min("started_at"))
    seen: dict[str, dict[str, datetime]] = defaultdict(dict)
    for public_id, address, first in rows:
        network = network_of(address)
        seen[public_id][network] = min(first, seen[public_id].get(network, first))
    return {
        public_id: fresh
        for public_id, firsts in seen.items()
        if (fresh := _fresh(firsts, since)) and len(fresh) < len(firsts)
    }


def _moment(calls: CallQuerySet, number: int) -> datetime | None:
    """When the call began that has so many newer ones; None if there are fewer."""
    newest_first = calls.order_by("-started_at", "-pk").values_list("started_at", flat=True)
    return newest_first[number : number + 1].first()


def _fresh(firsts: dict[str, datetime], since: datetime) -> list[str]:
    return sorted(network for network, first in firsts.items() if first >= since)
