"""Keys that are used from where they were not used before, as far as calls are kept."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from django.db.models import Min, QuerySet
from django.utils import timezone

from keyportal.http.addresses import site_network
from keyportal.teams.models import Team
from keyportal.usage.models import Call, Look

MAX_ROWS_SEARCHED = (
    20_000  # Calls: half of them as what is new, and at least half as what was before.
)
NEW_FOR = timedelta(days=1)


def new_networks(team: Team) -> dict[str, list[str]]:
    """By public id, the networks that a key was first seen from within the last day: it called,
    or looked at what there is to call.

    Only keys that had been seen elsewhere before that: the first network of a key is no news. In
    a busy team, of the newest calls and looks alone; whoever alternates between networks more
    slowly than that is told of each time. Four to six queries, whatever the number of keys.
    """
    calls = Call.objects.for_team(team).exclude(address=None)
    looks = Look.objects.filter(team_slug=team.slug)
    seen: dict[str, set[str]] = defaultdict(set)
    known: dict[str, set[str]] = defaultdict(set)
    for public_id, network, is_known in (
        *(
            (key, site_network(peer), old)
            for key, peer, old in _rows(calls, "address", "started_at")
        ),
        *_rows(looks, "network", "seen_at"),
    ):
        seen[public_id].add(network)
        if is_known:
            known[public_id].add(network)
    return {
        public_id: sorted(fresh)
        for public_id, networks in seen.items()
        if (fresh := networks - known[public_id]) and len(fresh) < len(networks)
    }


def _rows(found: QuerySet[Any], place: str, moment: str) -> Iterator[tuple[str, str, bool]]:
    """The public id, the place, and whether it was seen there before what is new, each once."""
    newest_first = found.order_by(f"-{moment}", "-pk").values_list(moment, flat=True)
    # When the one was that has so many newer ones; None if there are fewer.
    oldest, since = (
        newest_first[MAX_ROWS_SEARCHED : MAX_ROWS_SEARCHED + 1].first(),
        timezone.now() - NEW_FOR,
    )
    if oldest and (
        middle := newest_first[MAX_ROWS_SEARCHED // 2 : MAX_ROWS_SEARCHED // 2 + 1].first()
    ):
        found, since = found.filter(**{f"{moment}__gte": oldest}), max(since, middle)
    rows = found.order_by().values_list("public_id", place).annotate(Min(moment))
    for public_id, where, first in rows:
        yield public_id, where, first < since
