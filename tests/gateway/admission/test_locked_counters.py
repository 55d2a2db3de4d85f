"""A lock on a counter stops only what counts there, and a host that vanished loses its locks."""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections

from keyportal.database import configuration
from keyportal.gateway.admission import batcher, limiter_sql
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.database import PostgreSQL, close, database
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import Kind, Window, key_subject, team_subject
from tests.support.clock import ensure_time_left

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "admission"])
Issue = Callable[..., tuple[ApiKey, str]]
Limited = Callable[..., tuple[ApiKey, str]]
PATIENCE = 60.0  # Seconds that a busy machine may need for work of milliseconds.


class OtherHost:
    """A session of another host, with the settings of the admission thread."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)

    def count(self, *subjects: str, requests: int = 1) -> None:
        """Count this many requests of each subject in a transaction, which stays open."""
        self._run(lambda: database().begin())
        additions = [(subject, int(Kind.MINUTE), requests, 0) for subject in sorted(subjects)]
        self._run(lambda: limiter_sql.add(additions))

    def limit_idle(self, time: str) -> None:
        """How long PostgreSQL keeps a transaction that is open and idle."""
        setting = f"SET idle_in_transaction_session_timeout = '{time}'"
        self._run(lambda: database().execute(setting))

    def commit(self) -> None:
        self._run(lambda: database().commit())

    def close(self) -> None:
        self._run(close)
        self._thread.shutdown()

    def start(self, work: Callable[[], Any]) -> "Future[Any]":
        return self._thread.submit(work)

    def _run(self, work: Callable[[], Any]) -> Any:
        return self.start(work).result(PATIENCE)


@pytest.fixture
def other_host(db: None) -> Iterator[OtherHost]:
    other_host = OtherHost()
    if connection.vendor == "postgresql":
        other_host.limit_idle("0")
    ensure_time_left(20)  # In the next minute, another row is counted in.
    yield other_host
    other_host.close()


@pytest.fixture
def admission(db: None) -> Iterator[Admission]:
    admission = Admission("worker")
    yield admission
    asyncio.run(admission.close())
    admission._thread.shutdown()  # Waits: an open connection would prevent dropping the database.


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batcher, "VERDICT_SECONDS", PATIENCE)


@pytest.fixture
def limited(alice: User, issue: Issue) -> Limited:
    def limited(name: str = "test-key", **limits: int) -> tuple[ApiKey, str]:
        key, text = issue(alice, name)
        ApiKey.objects.filter(pk=key.pk).update(limits=Limits(**limits))
        return key, text

    return limited


async def admit(admission: Admission, text: str) -> str:
    """Return `Admitted`, `NoneType` for an invalid key, or the name of the error."""
    try:
        digest = keystring.digest(text.encode())
        return type(await admission.admit(digest, None, is_counted=True)).__name__
    except Exception as error:
        return type(error).__name__


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, PATIENCE))


def subject(key: ApiKey) -> str:
    return key_subject(key.public_id)


def counts() -> dict[str, int]:
    return dict(Window.objects.values_list("subject", "requests"))


def idle_limit() -> str:
    """The product's. That of the tests is longer."""
    config = configuration.read_url("postgresql://nobody@127.0.0.1/keyportal", Path())
    options = configuration.databases(config, has_pooler=False)["admission"]["OPTIONS"]["options"]
    found = re.search(r"idle_in_transaction_session_timeout=(\w+)", options)
    assert found
    return found[1]


@pytest.mark.postgresql
def test_locks_of_a_host_that_vanished_before_its_commit_end_within_three_seconds(
    admission: Admission, limited: Limited
) -> None:
    key, text = limited(requests_per_minute=60)
    other_host = OtherHost()
    other_host.count(subject(key))
    other_host.limit_idle(idle_limit())
    # And then nothing more, as if its cable had been cut.

    async def admit_again() -> None:
        while (outcome := await admit(admission, text)) != "Admitted":
            assert outcome == "DatabaseUnavailable"

    run(admit_again())
    with suppress(Exception):  # PostgreSQL has ended its session.
        other_host.close()


@pytest.mark.parametrize("is_counted_before", [True, False])
def test_only_what_counts_on_a_locked_row_waits(
    is_counted_before: bool,
    admission: Admission,
    other_host: OtherHost,
    limited: Limited,
    issue: Issue,
    bob: User,
    patience: None,
) -> None:
    """Also if the row was inserted by the other transaction, so that nobody can see it."""
    locked, locked_text = limited("locked", requests_per_minute=5)
    free, free_text = limited("free", requests_per_minute=1000)
    _, unlimited_text = issue(bob, "unlimited")
    if is_counted_before:
        assert run(admit(admission, locked_text)) == "Admitted"
    other_host.count(subject(locked), requests=3 - is_counted_before)
    # SQLite has one lock for all counters.
    others = [free_text, unlimited_text] if connection.vendor == "postgresql" else [unlimited_text]

    async def call() -> None:
        waiting = [asyncio.create_task(admit(admission, locked_text)) for _ in range(6)]
        for _ in range(100):
            for text in others:
                assert await admit(admission, text) == "Admitted"
        assert not any(task.done() for task in waiting)
        other_host.commit()
        outcomes = Counter(await asyncio.gather(*waiting))
        assert outcomes == {"Admitted": 2, "RateLimitExceeded": 4}

    run(call())
    assert not admission._limiter.locked
    expected = {subject(locked): 5}
    if connection.vendor == "postgresql":
        expected[subject(free)] = 100
    assert counts() == expected


def test_request_waits_for_a_locked_row_for_two_seconds_and_is_not_counted(
    admission: Admission, other_host: OtherHost, limited: Limited
) -> None:
    key, text = limited(requests_per_minute=60)
    other_host.count(subject(key))
    began = time.monotonic()
    assert run(admit(admission, text)) == "DatabaseUnavailable"
    assert time.monotonic() - began > 1.9
    other_host.commit()
    assert counts() == {subject(key): 1}


async def in_thread(work: Callable[[], object]) -> object:
    def run() -> object:
        try:
            return work()
        finally:
            connections.close_all()  # This thread's: an open one keeps the test database.

    return await asyncio.to_thread(run)


async def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(int(PATIENCE / 0.01)):
        if await in_thread(condition):
            return
        await asyncio.sleep(0.01)
    raise TimeoutError


@pytest.mark.postgresql
@pytest.mark.parametrize(("limit", "requests"), [(3, {"a": 3, "b": 2}), (2, {"a": 2, "b": 1})])
def test_limits_are_compared_with_counts_that_another_host_committed_meanwhile(
    limit: int, requests: dict[str, int], other_host: OtherHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are counted, or none is."""
    other_host.count("a", "b")
    other_host.commit()
    other_host.count("a")
    monkeypatch.setattr(PostgreSQL, "wait_ms", int(PATIENCE * 1000))
    additions = [("a", Kind.MINUTE, 1, 0, limit, None), ("b", Kind.MINUTE, 1, 0, None, None)]
    with closing(OtherHost()) as host:
        host.start(lambda: database().execute("SET statement_timeout = 0")).result(PATIENCE)
        adding = host.start(lambda: limiter_sql.add_within_limits(additions))
        run(wait_until(is_session_waiting_for_a_lock))
        other_host.commit()
        assert (adding.result(PATIENCE) is None) == (limit == 2)
    assert counts() == requests


def is_session_waiting_for_a_lock() -> bool:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT 1 FROM pg_stat_activity "
            "WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return bool(cursor.fetchall())


@pytest.mark.postgresql
def test_key_that_is_deleted_while_its_request_waits_for_a_lock_is_refused(
    admission: Admission, other_host: OtherHost, limited: Limited, patience: None
) -> None:
    key, text = limited(requests_per_minute=60)
    other_host.count(subject(key))

    async def call() -> None:
        waiting = asyncio.create_task(admit(admission, text))
        await wait_until(lambda: admission._locked_out)
        await in_thread(lambda: key.revoke(actor=None))
        other_host.commit()
        assert await waiting == "NoneType"

    run(call())


@pytest.mark.postgresql
def test_lock_on_a_teams_row_stops_its_keys_only(
    admission: Admission,
    other_host: OtherHost,
    team: Team,
    other_team: Team,
    charlie: User,
    limited: Limited,
    issue: Issue,
    patience: None,
) -> None:
    _, own = limited("own", requests_per_minute=60)
    _, others = issue(charlie, team=other_team)
    Team.objects.update(limits=Limits(requests_per_minute=100))
    other_host.count(team_subject(team.slug))

    async def call() -> None:
        waiting = asyncio.create_task(admit(admission, own))
        for _ in range(50):
            assert await admit(admission, others) == "Admitted"
        assert not waiting.done()
        other_host.commit()
        assert await waiting == "Admitted"

    run(call())
    assert counts()[team_subject(team.slug)] == 2


def test_usage_of_a_locked_row_is_written_later_and_its_call_does_not_wait(
    admission: Admission,
    other_host: OtherHost,
    limited: Limited,
    patience: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batcher, "RETRY_SECONDS", 0.05)
    key, text = limited(tokens_per_minute=1000, parallel_requests=1)

    async def call() -> None:
        digest = keystring.digest(text.encode())
        admitted = await admission.admit(digest, None, is_counted=True)
        assert admitted is not None
        other_host.count(subject(key))
        await admission.complete(admitted.verdict.buckets, 70)
        other_host.commit()
        await wait_until(Window.objects.filter(tokens=70).exists)
        assert await admit(admission, text) == "Admitted"  # Its slot was released too.

    run(call())
