"""What looks as if a key were in the wrong hands, seen in what the meter has gathered anyway.

Requests without a row are gathered for it alone: whoever verifies a key that they found makes no
call, but asks which models it opens; and of very many verifications only some have rows.

Looked at in the writer's thread, once a flush has committed, so that no call and no figure waits
for it. People are told by mail, once an hour for a key and kind, over all workers: the row of the
alarm decides, and commits with the row of the audit and the mail in the outbox. A look that fails
is logged and not repeated: what goes on will be seen a second later.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connections, transaction

from keyportal.audit.models import Action
from keyportal.gateway.metering import alarms
from keyportal.gateway.metering.usage_sql import Flush, Look
from keyportal.gateway.metering.writer import ALIAS
from keyportal.http.addresses import site_network
from keyportal.keys.models import ApiKey
from keyportal.usage.models import INTERVAL_SECONDS, Sighting
from keyportal.usage.models import Look as SeenLook

MOST_KNOWN = 50_000  # Networks that a worker remembers to have written down.
SLICE = 500
DAY_SECONDS = 86_400

logger = logging.getLogger(__name__)


class Anomaly(NamedTuple):
    """`number`: of networks or refusals; of requests that were refused since, for an ended key."""

    public_id: str
    action: Action
    number: int


class AnomalyDetector:
    """One per worker; every method runs in the writer's thread."""

    def __init__(self) -> None:
        self._seen = Known()
        self._looked = Known()

    def look(self, flush: Flush, buried: Mapping[str, int]) -> None:
        """`buried`: requests with the secrets of ended keys, by public id."""
        try:
            self._look(flush, buried)
        except Exception as error:
            logger.warning("Not watched for leaks: %s: %s", type(error).__name__, error)
            connections[ALIAS].close()  # One that broke would stay broken for ever.

    def _look(self, flush: Flush, buried: Mapping[str, int]) -> None:
        now = datetime.now(UTC).timestamp()
        start, day = (int(now) // length * length for length in (INTERVAL_SECONDS, DAY_SECONDS))
        fresh = self._seen.fresh(_networks(flush), start)
        looks = self._looked.fresh(_looks(flush.looked), day)
        refused = _by_public_id(flush)
        if not (fresh or looks or refused or buried):
            return
        with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
            rows = [(*look, _moment(day), _moment(now)) for look in sorted(looks)]
            cursor.executemany(_LOOK, rows)
            seen = _note_networks(cursor, fresh, start)
            real = _note_refusals(cursor, refused, start)
        # Counted once that is committed: of two workers that wrote at one time, and counted before,
        # neither would see what the other has seen.
        with connections[ALIAS].cursor() as cursor:
            found = [
                *_spread(cursor, seen, start),
                *_guessed(cursor, real, start),
                *(
                    Anomaly(one, Action.KEY_USED_AFTER_DELETION, number)
                    for one, number in buried.items()
                ),
            ]
        # A transaction each: on SQLite, no other write waits for more than one mail to be composed.
        for one in found:
            alarms.raise_once(*one)
        self._seen.add(fresh)
        self._looked.add(looks)


class Known:
    """What this worker has written down in a stretch of time, and so need not write again."""

    def __init__(self) -> None:
        self._start = 0
        self._known: set[tuple[str, ...]] = set()

    def fresh(self, seen: set[tuple[str, ...]], start: int) -> set[tuple[str, ...]]:
        """Those that it has not written down in the stretch that starts then."""
        if start != self._start or len(self._known) > MOST_KNOWN:
            self._start, self._known = start, set()
        return seen - self._known

    def add(self, written: set[tuple[str, ...]]) -> None:
        self._known |= written


def _networks(flush: Flush) -> set[tuple[str, ...]]:
    """Keys and the networks that they came from, with a call or without one."""
    if not settings.ALARM_NETWORKS:
        return set()
    calls = {(one.public_id, site_network(one.address)) for one in flush.records if one.address}
    return calls | {look[1:] for look in _looks(flush.looked)}


def _looks(looked: Collection[Look]) -> set[tuple[str, ...]]:
    """Team, key and network."""
    return {(team, public_id, site_network(address)) for team, public_id, address in looked}


def _by_public_id(flush: Flush) -> Counter[str]:
    """Well-formed keys that were refused, by the public id that they bear, true or made up."""
    refused: Counter[str] = Counter()
    if settings.ALARM_REFUSALS:
        for digest, public_id in flush.claimed.items():
            refused[public_id] += flush.refused[digest]
    return refused


def _note_networks(cursor: Any, fresh: set[tuple[str, ...]], start: int) -> list[str]:
    """Whose they are."""
    rows = [(public_id, _moment(start), network, 1) for public_id, network in sorted(fresh)]
    cursor.executemany(_SIGHT, rows)
    return sorted({public_id for public_id, _ in fresh})


def _note_refusals(cursor: Any, refused: Counter[str], start: int) -> list[str]:
    """The ids that are real: only those are written down, or who makes them up fills a table."""
    real = sorted(public_id for (public_id,) in _among(cursor, _REAL, [*refused]))
    rows = [(public_id, _moment(start), "", refused[public_id]) for public_id in real]
    cursor.executemany(_SIGHT, rows)
    return real


def _spread(cursor: Any, seen: list[str], start: int) -> Iterator[Anomaly]:
    for public_id, number in _among(cursor, _NETWORKS, seen, _moment(start - INTERVAL_SECONDS)):
        if number >= settings.ALARM_NETWORKS:
            yield Anomaly(public_id, Action.KEY_MANY_NETWORKS, number)


def _guessed(cursor: Any, real: list[str], start: int) -> Iterator[Anomaly]:
    for public_id, number in _among(cursor, _REFUSALS, real, _moment(start - INTERVAL_SECONDS)):
        if number >= settings.ALARM_REFUSALS:
            yield Anomaly(public_id, Action.KEY_REFUSED_OFTEN, int(number))


def _among(cursor: Any, statement: str, asked: list[str], *more: Any) -> Iterator[tuple[Any, ...]]:
    """The rows that the statement has for these public ids."""
    for begin in range(0, len(asked), SLICE):
        some = asked[begin : begin + SLICE]
        cursor.execute(statement.format(marks=", ".join(["%s"] * len(some))), [*some, *more])
        yield from cursor.fetchall()


def _moment(seconds: float) -> Any:
    """A time as this database takes it."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return connections[ALIAS].ops.adapt_datetimefield_value(moment)


_KEYS = ApiKey._meta.db_table
_SIGHTINGS = Sighting._meta.db_table
_LOOKS = SeenLook._meta.db_table
_SIGHT = f"""
INSERT INTO {_SIGHTINGS} (public_id, start, what, count) VALUES (%s, %s, %s, %s)
ON CONFLICT (public_id, start, what)
DO UPDATE SET count = {_SIGHTINGS}.count + excluded.count
"""  # noqa: S608 - our own names
_LOOK = f"""
INSERT INTO {_LOOKS} (team_slug, public_id, network, start, seen_at)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""  # noqa: S608 - our own names
_NETWORKS = f"""
SELECT public_id, count(*) FROM (
  SELECT DISTINCT public_id, what FROM {_SIGHTINGS}
  WHERE public_id IN ({{marks}}) AND start >= %s AND what <> ''
) AS networks GROUP BY public_id
"""  # noqa: S608 - our own names
_REFUSALS = f"""
SELECT public_id, sum(count) FROM {_SIGHTINGS}
WHERE public_id IN ({{marks}}) AND start >= %s AND what = '' GROUP BY public_id
"""  # noqa: S608 - our own names
_REAL = f"SELECT public_id FROM {_KEYS} WHERE public_id IN ({{marks}})"  # noqa: S608 - our own names
