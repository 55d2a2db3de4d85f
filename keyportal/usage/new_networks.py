"""Keys that were used from a new network, compared with the calls that are still stored."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Min, QuerySet

from keyportal.http.addresses import site_network
from keyportal.teams.models import Team
from keyportal.usage.models import Call, NetworkUse

MAX_ROWS_SEARCHED = 20_000  # Up to half of them count as new, the rest as the past to compare with.
NEW_FOR = timedelta(days=1)


def new_networks(team: Team, now: datetime) -> dict[str, list[str]]:
    """The networks from which each key was first used within the day before `now`, by public id.

    A use is a `Call` or a `NetworkUse`. Keys that were not used from another network before are
    left out, because the first network of a key is not news. In a busy team only the newest
    `MAX_ROWS_SEARCHED` of each are compared, so a key that alternates between networks more
    slowly than that is reported each time. Four to six queries, for any number of keys.
    """
    calls = Call.objects.for_team(team).exclude(address=None)
    uses = NetworkUse.objects.filter(team_slug=team.history_slug)
    networks_seen: dict[str, set[str]] = defaultdict(set)
    known: dict[str, set[str]] = defaultdict(set)
    for public_id, network, is_known in (
        *(
            (key, site_network(ip), is_old)
            for key, ip, is_old in _rows(calls, "address", "started_at", now - NEW_FOR)
        ),
        *_rows(uses, "network", "first_used_at", now - NEW_FOR),
    ):
        networks_seen[public_id].add(network)
        if is_known:
            known[public_id].add(network)
    return {
        public_id: sorted(fresh)
        for public_id, networks in networks_seen.items()
        if (fresh := networks - known[public_id]) and len(fresh) < len(networks)
    }


def _rows(
    queryset: QuerySet[Any], column: str, time_column: str, since: datetime
) -> Iterator[tuple[str, str, bool]]:
    """Each public id and value of `column`, and whether the first such row is before `since`."""
    newest_first = queryset.order_by(f"-{time_column}", "-pk").values_list(time_column, flat=True)
    # The time of the oldest row to search; None if there are fewer rows.
    oldest = newest_first[MAX_ROWS_SEARCHED : MAX_ROWS_SEARCHED + 1].first()
    if oldest and (
        middle := newest_first[MAX_ROWS_SEARCHED // 2 : MAX_ROWS_SEARCHED // 2 + 1].first()
    ):
        queryset = queryset.filter(**{f"{time_column}__gte": oldest})
        since = max(since, middle)
    rows = queryset.order_by().values_list("public_id", column).annotate(Min(time_column))
    for public_id, value, first in rows:
        yield public_id, value, first < since
