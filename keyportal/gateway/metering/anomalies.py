"""Finds signs that a key is in the wrong hands, in what the meter collects.

For this the meter also collects requests that have no row in the call log. Attack: a stranger
verifies a key without any call, by a list of the models that it may call. And of very many
verifications only some have rows.

This runs in the writer's thread, after a flush has committed, so that no call and no usage waits
for it. An alarm is sent by mail once an hour for each key and kind, over all workers: the alarm's
row decides, and is committed together with the audit event and the mail in the outbox. A failure is
logged and not repeated: an anomaly that goes on is found a second later.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connections, transaction

from keyportal.audit.models import Action
from keyportal.database.clock import database_now
from keyportal.gateway.metering import alarms
from keyportal.gateway.metering.usage_sql import Flush, Lookup
from keyportal.gateway.metering.writer import ALIAS
from keyportal.http.addresses import site_network
from keyportal.keys.models import ApiKey
from keyportal.usage.models import INTERVAL_SECONDS, NetworkUse, Sighting

MAX_WRITTEN = 50_000  # Rows that a worker remembers having written.
SLICE = 500
DAY_SECONDS = 86_400

logger = logging.getLogger(__name__)


class Anomaly(NamedTuple):
    """`number`: of networks, of refused requests, or of requests after the key's deletion."""

    public_id: str
    action: Action
    number: int


class AnomalyDetector:
    """One per worker. Every method runs in the writer's thread."""

    def __init__(self) -> None:
        self._networks = WrittenRows()
        self._lookups = WrittenRows()

    def detect(self, flush: Flush, refused_after_deletion: Mapping[str, int]) -> None:
        """Raise alarms for what is unusual in `flush`.

        `refused_after_deletion` counts, by public id, the requests with deleted or rotated secrets.
        """
        try:
            self._detect(flush, refused_after_deletion)
        except Exception as error:
            logger.warning("Anomalies were not checked: %s: %s", type(error).__name__, error)
            connections[ALIAS].close()  # A broken connection would never recover.

    def _detect(self, flush: Flush, refused_after_deletion: Mapping[str, int]) -> None:
        if not (flush.records or flush.lookups or flush.refused_ids or refused_after_deletion):
            return
        now = database_now(ALIAS).timestamp()
        start, day = (int(now) // length * length for length in (INTERVAL_SECONDS, DAY_SECONDS))
        networks = self._networks.unwritten(_networks(flush), start)
        lookups = self._lookups.unwritten(_lookups(flush.lookups), day)
        refusals = _refusals_by_public_id(flush)
        if not (networks or lookups or refusals or refused_after_deletion):
            return
        with transaction.atomic(using=ALIAS), connections[ALIAS].cursor() as cursor:
            rows = [(*lookup, _timestamp(day), _timestamp(now)) for lookup in sorted(lookups)]
            cursor.executemany(_INSERT_LOOKUP, rows)
            seen_ids = _write_networks(cursor, networks, start)
            refused_ids = _write_refusals(cursor, refusals, start)
        # Counted after the commit: two workers that write at the same time and count before it
        # would not see each other's rows.
        with connections[ALIAS].cursor() as cursor:
            anomalies = [
                *_many_networks(cursor, seen_ids, start),
                *_many_refusals(cursor, refused_ids, start),
                *(
                    Anomaly(public_id, Action.KEY_USED_AFTER_DELETION, count)
                    for public_id, count in refused_after_deletion.items()
                ),
            ]
        # One transaction each: on SQLite, other writes wait for one mail to be written at most.
        for anomaly in anomalies:
            alarms.raise_once(*anomaly)
        self._networks.add(networks)
        self._lookups.add(lookups)


class WrittenRows:
    """The rows that this worker has written in the current interval and need not write again."""

    def __init__(self) -> None:
        self._start = 0
        self._written: set[tuple[str, ...]] = set()

    def unwritten(self, rows: set[tuple[str, ...]], start: int) -> set[tuple[str, ...]]:
        """Those of `rows` that were not written in the interval that begins at `start`."""
        if start != self._start or len(self._written) > MAX_WRITTEN:
            self._start, self._written = start, set()
        return rows - self._written

    def add(self, rows: set[tuple[str, ...]]) -> None:
        self._written |= rows


def _networks(flush: Flush) -> set[tuple[str, ...]]:
    """Public ids and the networks that they were used from, with or without a call."""
    if not settings.ALARM_NETWORKS:
        return set()
    calls = {
        (record.public_id, site_network(record.address))
        for record in flush.records
        if record.address
    }
    return calls | {lookup[1:] for lookup in _lookups(flush.lookups)}


def _lookups(lookups: Collection[Lookup]) -> set[tuple[str, ...]]:
    """Team, public id and network."""
    return {(team, public_id, site_network(address)) for team, public_id, address in lookups}


def _refusals_by_public_id(flush: Flush) -> Counter[str]:
    """Refused requests with well-formed keys, by the public id in the key, real or made up."""
    refusals: Counter[str] = Counter()
    if settings.ALARM_REFUSALS:
        for digest, public_id in flush.refused_ids.items():
            refusals[public_id] += flush.refused[digest]
    return refusals


def _write_networks(cursor: Any, networks: set[tuple[str, ...]], start: int) -> list[str]:
    """Write them, and return their public ids."""
    rows = [(public_id, _timestamp(start), network, 1) for public_id, network in sorted(networks)]
    cursor.executemany(_UPSERT_SIGHTING, rows)
    return sorted({public_id for public_id, _ in networks})


def _write_refusals(cursor: Any, refusals: Counter[str], start: int) -> list[str]:
    """Write those of real keys, and return their public ids.

    Attack: requests with made-up public ids could fill the table.
    """
    real_ids = sorted(public_id for (public_id,) in _rows_for(cursor, _SELECT_REAL, [*refusals]))
    rows = [(public_id, _timestamp(start), "", refusals[public_id]) for public_id in real_ids]
    cursor.executemany(_UPSERT_SIGHTING, rows)
    return real_ids


def _many_networks(cursor: Any, public_ids: list[str], start: int) -> Iterator[Anomaly]:
    since = _timestamp(start - INTERVAL_SECONDS)
    for public_id, count in _rows_for(cursor, _COUNT_NETWORKS, public_ids, since):
        if count >= settings.ALARM_NETWORKS:
            yield Anomaly(public_id, Action.KEY_MANY_NETWORKS, count)


def _many_refusals(cursor: Any, public_ids: list[str], start: int) -> Iterator[Anomaly]:
    since = _timestamp(start - INTERVAL_SECONDS)
    for public_id, count in _rows_for(cursor, _SUM_REFUSALS, public_ids, since):
        if count >= settings.ALARM_REFUSALS:
            yield Anomaly(public_id, Action.KEY_REFUSED_OFTEN, int(count))


def _rows_for(
    cursor: Any, statement: str, public_ids: list[str], *parameters: Any
) -> Iterator[tuple[Any, ...]]:
    """The rows that the statement returns for these public ids."""
    for begin in range(0, len(public_ids), SLICE):
        some_ids = public_ids[begin : begin + SLICE]
        placeholders = ", ".join(["%s"] * len(some_ids))
        cursor.execute(statement.format(placeholders=placeholders), [*some_ids, *parameters])
        yield from cursor.fetchall()


def _timestamp(seconds: float) -> Any:
    """A time in the form that this database takes."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return connections[ALIAS].ops.adapt_datetimefield_value(moment)


_KEYS = ApiKey._meta.db_table
_SIGHTINGS = Sighting._meta.db_table
_LOOKS = NetworkUse._meta.db_table
_UPSERT_SIGHTING = f"""
INSERT INTO {_SIGHTINGS} (public_id, start, network, count) VALUES (%s, %s, %s, %s)
ON CONFLICT (public_id, start, network)
DO UPDATE SET count = {_SIGHTINGS}.count + excluded.count
"""  # noqa: S608 - our own names
_INSERT_LOOKUP = f"""
INSERT INTO {_LOOKS} (team_slug, public_id, network, start, first_used_at)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""  # noqa: S608 - our own names
_COUNT_NETWORKS = f"""
SELECT public_id, count(*) FROM (
  SELECT DISTINCT public_id, network FROM {_SIGHTINGS}
  WHERE public_id IN ({{placeholders}}) AND start >= %s AND network <> ''
) AS networks GROUP BY public_id
"""  # noqa: S608 - our own names
_SUM_REFUSALS = f"""
SELECT public_id, sum(count) FROM {_SIGHTINGS}
WHERE public_id IN ({{placeholders}}) AND start >= %s AND network = '' GROUP BY public_id
"""  # noqa: S608 - our own names
_SELECT_REAL = f"SELECT public_id FROM {_KEYS} WHERE public_id IN ({{placeholders}})"  # noqa: S608 - our own names
