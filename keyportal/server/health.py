"""Probes for load balancers: `/healthz` for the process, `/readyz` for what it needs for requests.

They need no key, are answered for any Host and over plain HTTP, and are not in the access log.
"""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
from django.db import DatabaseError, connections, transaction
from django.db.migrations.executor import MigrationExecutor

import keyportal
from keyportal.database.session import shut_down
from keyportal.http.requests import NO_SNIFFING
from keyportal.http.types import Headers, Receive, Scope, Send

HEALTH_PATHS = frozenset({"/healthz", "/readyz"})
ALIAS = "admission"  # Its statements time out, and it stays open in the thread that uses it.
MAX_SECONDS = 2.0
# Attack: anybody may ask, as often as they like. The database is asked once in this time.
FRESH_SECONDS = 1.0


class HealthChecks:
    """Answers the probes of one worker.

    One thread asks the database, for all requests that wait at the same time.
    """

    def __init__(self, check: "DatabaseCheck | None" = None) -> None:
        self.is_draining = False
        """Whether this process stops: a load balancer should send requests elsewhere."""
        self._check = check or DatabaseCheck()
        self._executor: ThreadPoolExecutor | None = None
        self._result: Future[str] | None = None
        self._stale_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in {"GET", "HEAD"}:
            await _send(send, 405, {"status": "method_not_allowed"}, [(b"allow", b"GET, HEAD")])
        elif scope["path"] == "/healthz":
            await _send(send, 200, {"status": "ok", "version": keyportal.__version__})
        elif reason := await self._reason_against():
            await _send(send, 503, {"status": "unavailable", "reason": reason})
        else:
            await _send(send, 200, {"status": "ready"})

    async def _reason_against(self) -> str:
        """Why requests should not be sent here; empty if they should."""
        if self.is_draining:
            return "draining"
        result = self._latest_check()
        done, _ = await asyncio.wait({asyncio.wrap_future(result)}, timeout=MAX_SECONDS)
        if done:
            return result.result()
        self._check.abort()
        return "database"

    def _latest_check(self) -> Future[str]:
        """The check that runs, or a new one if none runs and the last one is old."""
        now = asyncio.get_running_loop().time()
        result = self._result
        if result is None or (result.done() and now >= self._stale_at):
            # Created here, because threads don't survive the fork.
            self._executor = self._executor or ThreadPoolExecutor(1, "health")
            result = self._result = self._executor.submit(self._check.run)
            self._stale_at = now + FRESH_SECONDS
        return result


class DatabaseCheck:
    """Whether the database can be written, and has the tables of this version."""

    def __init__(self) -> None:
        self._is_migrated = False
        self._session: Any = None
        """The driver's connection while a check runs, for `abort`."""

    def run(self) -> str:
        """Return why it can't be used: `database` or `migrations`; empty if it can."""
        connection = connections[ALIAS]
        try:
            connection.ensure_connection()
            self._session = connection.connection
            if is_read_only(ALIAS):
                return "database"
            self._is_migrated = self._is_migrated or not missing_migrations(ALIAS)
        except DatabaseError:
            connection.close()
            return "database"
        finally:
            self._session = None
        return "" if self._is_migrated else "migrations"

    def abort(self) -> None:
        """End the network connection of a check that runs. Called in another thread.

        A database session can be silent for ever, and then this thread would never check again.
        """
        shut_down(self._session)


def is_read_only(alias: str) -> bool:
    """Whether the database refuses to be written, such as a hot standby.

    Raises `DatabaseError` for SQLite, which is written to: only a commit finds that a disk is full.
    """
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        if connections[alias].vendor != "postgresql":
            cursor.execute("PRAGMA user_version = 0")  # One page. Nothing reads this number.
            return False
        cursor.execute("SHOW transaction_read_only")
        return bool(cursor.fetchone() == ("on",))


def missing_migrations(alias: str) -> list[str]:
    """The names of the migrations that have not been applied."""
    executor = MigrationExecutor(connections[alias])
    plan = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return [f"{migration.app_label}.{migration.name}" for migration, _ in plan]


async def _send(send: Send, status: int, content: object, headers: Headers | None = None) -> None:
    body = msgspec.json.encode(content)
    start: Headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        NO_SNIFFING,
        *(headers or []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})
