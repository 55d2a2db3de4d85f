"""The probes `/healthz` and `/readyz`."""

import asyncio
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import DatabaseError, connection, connections, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.urls import Resolver404, resolve

import keyportal
from keyportal.server import health
from keyportal.server.health import DatabaseCheck, HealthChecks
from tests.support.asgi import Client, scope
from tests.support.server import Server


class FakeCheck(DatabaseCheck):
    """Finds what a test says, after `released` is set."""

    def __init__(self, result: str = "") -> None:
        super().__init__()
        self.result = result
        self.runs = 0
        self.aborted = False
        self.released = threading.Event()
        self.released.set()

    def run(self) -> str:
        self.runs += 1
        self.released.wait(60)
        return self.result

    def abort(self) -> None:
        self.aborted = True
        self.released.set()


async def probe(checks: HealthChecks, path: str = "/readyz", method: str = "GET") -> Client:
    client = Client()
    await checks(scope(path, method), client.receive, client.send)
    return client


def test_health_needs_no_database_and_names_the_version() -> None:
    """This test has no database fixture, so pytest-django refuses a connection."""
    client = asyncio.run(probe(HealthChecks(), "/healthz"))
    assert client.status == 200
    assert client.json() == {"status": "ok", "version": keyportal.__version__}
    assert client.headers[b"cache-control"] == b"no-store"


@pytest.mark.parametrize("reason", ["database", "migrations"])
def test_not_ready(reason: str) -> None:
    client = asyncio.run(probe(HealthChecks(FakeCheck(reason))))
    assert (client.status, client.json()) == (503, {"status": "unavailable", "reason": reason})


def test_draining_is_told_without_the_database() -> None:
    check = FakeCheck()
    checks = HealthChecks(check)
    checks.is_draining = True
    assert asyncio.run(probe(checks)).json()["reason"] == "draining"
    assert asyncio.run(probe(checks, "/healthz")).status == 200
    assert check.runs == 0


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_other_methods_are_refused(path: str) -> None:
    client = asyncio.run(probe(HealthChecks(), path, "POST"))
    assert (client.status, client.headers[b"allow"]) == (405, b"GET, HEAD")


def test_many_probes_at_once_ask_the_database_once() -> None:
    """Attack: a stranger sends thousands, and each takes a thread or a connection."""
    check = FakeCheck()
    checks = HealthChecks(check)

    async def ask() -> list[Client]:
        clients = await asyncio.gather(*[probe(checks) for _ in range(1000)])
        return [*clients, await probe(checks)]  # The last one soon after the first answer.

    assert {client.status for client in asyncio.run(ask())} == {200}
    assert check.runs == 1


def test_an_old_result_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "FRESH_SECONDS", 0)
    check = FakeCheck()
    checks = HealthChecks(check)

    async def ask() -> list[int]:
        before = await probe(checks)
        check.result = "database"
        return [before.status, (await probe(checks)).status]

    assert asyncio.run(ask()) == [200, 503]


def test_a_silent_database_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_SECONDS", 0.05)
    check = FakeCheck()
    check.released.clear()
    client = asyncio.run(probe(HealthChecks(check)))
    assert client.json() == {"status": "unavailable", "reason": "database"}
    assert check.aborted


database = pytest.mark.django_db(transaction=True, databases=["default", "admission"])


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """A thread with a connection of its own, like that of the checks."""
    with ThreadPoolExecutor(1) as executor:
        yield executor
        executor.submit(connections.close_all).result()


@database
def test_the_database_of_this_version_is_ready(thread: ThreadPoolExecutor) -> None:
    assert thread.submit(DatabaseCheck().run).result() == ""


@database
def test_a_missing_migration(thread: ThreadPoolExecutor) -> None:
    recorder = MigrationRecorder(connection)
    check = DatabaseCheck()
    recorder.record_unapplied("usage", "0001_initial")
    try:
        assert thread.submit(check.run).result() == "migrations"
    finally:
        recorder.record_applied("usage", "0001_initial")
    assert thread.submit(check.run).result() == ""


@database
def test_a_database_that_is_gone(
    thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_alias: str) -> bool:
        raise DatabaseError

    with monkeypatch.context() as patch:
        patch.setattr(health, "is_read_only", fail)
        assert thread.submit(DatabaseCheck().run).result() == "database"
    assert thread.submit(DatabaseCheck().run).result() == ""


@pytest.mark.sqlite
@database
def test_a_full_disk(thread: ThreadPoolExecutor) -> None:
    """A file that may not grow is refused like one on a full disk."""
    check = DatabaseCheck()
    assert thread.submit(check.run).result() == ""
    _, hard_limit = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard_limit))
    try:
        assert thread.submit(check.run).result() == "database"
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert thread.submit(check.run).result() == ""


@pytest.mark.postgresql
@database
def test_a_read_only_database(thread: ThreadPoolExecutor) -> None:
    def run() -> str:
        with connections[health.ALIAS].cursor() as cursor:
            cursor.execute("SET default_transaction_read_only = on")
        return DatabaseCheck().run()

    assert thread.submit(run).result() == "database"


@pytest.mark.postgresql
@database
def test_a_check_that_waits_can_be_aborted(thread: ThreadPoolExecutor) -> None:
    """Another session holds a lock on the table of the migrations."""
    check = DatabaseCheck()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE django_migrations IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        result = thread.submit(check.run)
        while not result.done():
            check.abort()
            time.sleep(0.01)
        assert result.result() == "database"
        assert time.monotonic() - began < 30
    assert thread.submit(check.run).result() == ""


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_probes_over_the_wire(live: Server, path: str, method: str) -> None:
    """A load balancer sends its own address as the Host, and neither a key nor https."""
    reply = live.request(method, path, headers={"Host": "10.1.2.3:8000"})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert bool(reply.body) == (method == "GET")
    assert "10.1.2.3" not in live.log


@pytest.mark.parametrize("path", sorted(health.HEALTH_PATHS))
def test_a_probe_shadows_no_page(path: str) -> None:
    with pytest.raises(Resolver404):
        resolve(path)
