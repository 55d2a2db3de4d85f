"""Admission: may this key pass? Asked of the database for many requests at once.

Others cache the verdict on a key, because one query a request is slow. We never cache one: we
ask together, as a database groups commits. While one batch is being read, newcomers gather into
the next. So a verdict is always read after its request arrived, a deleted key is refused from
the moment its deletion commits, on every worker and host, and the cost of asking shrinks as the
load grows.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import msgspec
from django.db import connections

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.errors import DatabaseUnavailable, Overloaded

ALIAS = "admission"
VERDICT_SECONDS = 2.0
MAX_WAITING = 5000

logger = logging.getLogger(__name__)


class Verdict(NamedTuple):
    """The key may pass; this is whose it is and what it may call."""

    secret_id: int
    public_id: str
    team_id: int
    allowed_models: frozenset[str]
    """Served names; empty means all that the team may call."""


class Reading(NamedTuple):
    """What one batch learned: the verdicts by digest, and the catalog as it now is."""

    verdicts: dict[bytes, Verdict]
    catalog: Snapshot


class Admission:
    """Gathers requests into batches. One per worker; every method runs in its event loop."""

    def __init__(self) -> None:
        self.catalog = Snapshot.empty()
        self._waiting: list[tuple[bytes, asyncio.Future[Verdict | None]]] = []
        self._is_reading = False
        self._is_down = False
        # One thread, so one connection, opened in that thread after the fork.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="admission")

    async def judge(self, digest: bytes) -> Verdict | None:
        """The verdict on the key with this SHA-256 digest, read after this call; None refuses.

        Raises `DatabaseUnavailable` when there is none within two seconds: no verdict is never
        a good one. Raises `Overloaded` when too many wait already.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[Verdict | None] = loop.create_future()
        deadline = loop.call_later(VERDICT_SECONDS, _give_up, verdict)
        self._waiting.append((digest, verdict))
        if not self._is_reading:
            self._read_next_batch()
        try:
            return await verdict
        finally:
            deadline.cancel()

    def close(self) -> None:
        self._thread.submit(close)
        self._thread.shutdown(wait=False)

    def _read_next_batch(self) -> None:
        batch, self._waiting = self._waiting, []
        self._is_reading = True
        digests = list({digest for digest, _ in batch})
        reading = asyncio.get_running_loop().run_in_executor(
            self._thread, read, digests, self.catalog
        )
        reading.add_done_callback(partial(self._answer, batch))

    def _answer(
        self,
        batch: list[tuple[bytes, asyncio.Future[Verdict | None]]],
        reading: asyncio.Future[Reading],
    ) -> None:
        """Tell everyone in the batch, whatever it raised, and start the next."""
        self._is_reading = False
        try:
            verdicts, self.catalog = reading.result()
        except Exception as error:
            self._note_down(error)
            for _, waiting in batch:
                _give_up(waiting)
        else:
            self._note_down(None)
            for digest, waiting in batch:
                if not waiting.done():  # A caller that went away no longer waits.
                    waiting.set_result(verdicts.get(digest))
        if self._waiting:
            self._read_next_batch()

    def _note_down(self, error: Exception | None) -> None:
        """Log when the database goes and when it comes back, not every batch in between."""
        if error and not self._is_down:
            logger.error("No verdicts, so no calls: %s: %s", type(error).__name__, error)
        elif self._is_down and not error:
            logger.warning("Verdicts are back.")
        self._is_down = error is not None


def _give_up(waiting: asyncio.Future[Verdict | None]) -> None:
    if not waiting.done():
        waiting.set_exception(DatabaseUnavailable())


# What follows runs in the admission thread: fixed SQL, tuples, nothing of the ORM.


def read(digests: Sequence[bytes], catalog: Snapshot) -> Reading:
    """Judge these digests in one SELECT; read the catalog again if it has changed.

    After a failure the connection is closed, because one that broke would stay broken for ever.
    If it had died while it was idle, the batch is read once more on a fresh one.
    """
    was_open = connections[ALIAS].connection is not None
    try:
        return _read(digests, catalog)
    except Exception:
        died_idle = was_open and not connections[ALIAS].is_usable()
        connections[ALIAS].close()
        if not died_idle:
            raise
    return read(digests, catalog)


def close() -> None:
    # Looked up here, because elsewhere it would be another thread's connection.
    connections[ALIAS].close()


def _read(digests: Sequence[bytes], catalog: Snapshot) -> Reading:
    with connections[ALIAS].cursor() as cursor:
        cursor.execute(*_statement(digests))
        # All of it: an unexhausted cursor keeps SQLite on an old snapshot, in which keys that
        # were deleted since are still alive.
        rows = cursor.fetchall()
    if rows and rows[0][-1] != catalog.version:
        catalog = Snapshot.read(ALIAS)
    return Reading({bytes(row[0]): _verdict(row) for row in rows}, catalog)


def _verdict(row: tuple[object, ...]) -> Verdict:
    _, secret_id, public_id, team_id, allowed_models, _ = row
    return Verdict(secret_id, public_id, team_id, _names(str(allowed_models)))  # type: ignore[arg-type]  # as selected


def _names(text: str) -> frozenset[str]:
    return frozenset(msgspec.json.decode(text, type=list[str])) if text != "[]" else frozenset()


_JUDGE = """
SELECT secret.digest, secret.id, apikey.public_id, apikey.team_id, apikey.allowed_models,
       (SELECT version FROM catalog_catalogversion WHERE id = 1)
FROM keys_secret secret
JOIN keys_apikey apikey ON apikey.id = secret.key_id
JOIN teams_team team ON team.id = apikey.team_id
JOIN teams_user owner ON owner.id = apikey.owner_id
JOIN teams_membership membership
  ON membership.team_id = apikey.team_id AND membership.user_id = apikey.owner_id
WHERE secret.digest {among}
  AND team.is_active AND owner.is_active AND apikey.disabled_at IS NULL
  AND (apikey.expires_at IS NULL OR apikey.expires_at > {now})
  AND (secret.expires_at IS NULL OR secret.expires_at > {now})
"""
# The database's clock decides, so that all hosts agree. Debian 12's SQLite knows no subsecond
# unixepoch(), and Django keeps times as text, which this matches.
_SQLITE_NOW = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
_POSTGRESQL = _JUDGE.format(among="= ANY(%s)", now="now()")


def _statement(digests: Sequence[bytes]) -> tuple[str, list[Any]]:
    if connections[ALIAS].vendor == "postgresql":
        return _POSTGRESQL, [list(digests)]
    # Padded to a power of two, so that a handful of statements is prepared and used again.
    size = 1 << (len(digests) - 1).bit_length()
    padded = [*digests, *[digests[-1]] * (size - len(digests))]
    marks = ", ".join(["%s"] * size)
    return _JUDGE.format(among=f"IN ({marks})", now=_SQLITE_NOW), padded
