"""Verdicts are read after their requests have arrived, for many at once, and are never cached."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission import batch, batcher
from keyportal.gateway.admission import verdict as verdict_module
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict, VerdictResult, read_verdicts
from keyportal.gateway.errors import DatabaseUnavailable, Overloaded
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rules.permissions import NamePatterns, Permissions
from keyportal.teams.models import Membership, Team, User
from tests.support.statements import Statement, record_statements

# Transactions commit, because the admission thread has a connection of its own.
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "admission"])
Issue = Callable[..., tuple[ApiKey, str]]
UNKNOWN = keystring.generate().text
PATIENCE = 60.0  # Seconds that a busy machine may need for work of milliseconds.


def in_thread(admission: Admission, work: Callable[[], Any]) -> Any:
    """Run a function in the admission thread, which has its own connection."""
    return admission._thread.submit(work).result(timeout=PATIENCE)


@pytest.fixture
def admission(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Admission]:
    """With a long time-out, which only one test needs short."""
    monkeypatch.setattr(batcher, "VERDICT_SECONDS", PATIENCE)
    admission = Admission("worker")
    yield admission
    close(admission)


def close(admission: Admission) -> None:
    asyncio.run(admission.close())
    admission._thread.shutdown()  # Waits: an open connection would prevent dropping the database.


def verdicts_in(statements: list[Statement]) -> list[Statement]:
    return [(sql, params) for sql, params in statements if "keys_secret" in sql]


@pytest.fixture
def statements(admission: Admission) -> list[Statement]:
    return record_statements(admission)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Delays every batch until it is set."""
    gate = Event()

    def read_later(digests: list[bytes], catalog: Snapshot) -> VerdictResult:
        gate.wait(PATIENCE)
        return read_verdicts(digests, catalog)

    monkeypatch.setattr(batch, "read_verdicts", read_later)
    yield gate
    gate.set()


def digest(key: str) -> bytes:
    return keystring.digest(key.encode())


async def judge_all(admission: Admission, *keys: str) -> list[Verdict | BaseException | None]:
    return await asyncio.gather(
        *(admission.judge(digest(key)) for key in keys), return_exceptions=True
    )


def judge(admission: Admission, *keys: str) -> list[Verdict | BaseException | None]:
    """Judge these keys at the same moment."""
    return asyncio.run(judge_all(admission, *keys))


def database_now() -> datetime:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT now()")
            return cursor.fetchone()[0]  # type: ignore[no-any-return]  # a timestamptz
        cursor.execute("SELECT strftime('%%Y-%%m-%%d %%H:%%M:%%f+00:00', 'now')", [])
        return datetime.fromisoformat(cursor.fetchone()[0])


def test_valid_key_gets_its_verdict(
    admission: Admission, team: Team, alice: User, issue: Issue
) -> None:
    key, text = issue(alice, permissions=Permissions(("a/b", "c")))
    assert judge(admission, text) == [
        Verdict(
            key.current_secret.pk,
            key.public_id,
            team.pk,
            NamePatterns({"a/b", "c"}),
            team.slug,
            alice.pk,
            current_slug=team.slug,
        )
    ]


@pytest.mark.any_database
def test_a_key_without_a_list_may_call_all(admission: Admission, alice: User, issue: Issue) -> None:
    (verdict,) = judge(admission, issue(alice)[1])
    assert isinstance(verdict, Verdict)
    assert verdict.models is None


def delete(key: ApiKey) -> None:
    key.revoke(actor=None)


def expire(key: ApiKey) -> None:
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))


def expire_secret(key: ApiKey) -> None:
    key.secrets.update(expires_at=timezone.now() - timedelta(seconds=1))


def disable(key: ApiKey) -> None:
    ApiKey.objects.filter(pk=key.pk).update(disabled_at=timezone.now(), disabled_by="owner")


def deactivate_owner(key: ApiKey) -> None:
    User.objects.filter(pk=key.owner_id).update(is_active=False)


def remove_owner(key: ApiKey) -> None:
    Membership.objects.filter(user=key.owner_id).delete()


def deactivate_team(key: ApiKey) -> None:
    Team.objects.filter(pk=key.team_id).update(is_active=False)


INVALIDATIONS = [
    delete,
    expire,
    expire_secret,
    disable,
    deactivate_owner,
    remove_owner,
    deactivate_team,
]


@pytest.mark.parametrize("invalidate", INVALIDATIONS)
def test_invalid_key_is_refused_from_the_next_batch_like_an_unknown_one(
    invalidate: Callable[[ApiKey], None],
    admission: Admission,
    statements: list[Statement],
    alice: User,
    issue: Issue,
) -> None:
    key, text = issue(alice)
    assert isinstance(judge(admission, text)[0], Verdict)
    thread = in_thread(admission, lambda: connections["admission"].connection)
    invalidate(key)
    statements.clear()
    assert judge(admission, text) == [None]
    assert judge(admission, UNKNOWN) == [None]
    (invalid, _), (unknown, _) = statements
    assert invalid == unknown
    # The connection was reused: no snapshot may outlive a batch.
    assert in_thread(admission, lambda: connections["admission"].connection) is thread


def test_an_owner_who_is_a_member_elsewhere_only_is_refused(
    admission: Admission, other_team: Team, alice: User, issue: Issue
) -> None:
    key, text = issue(alice)
    Membership.objects.create(team=other_team, user=alice)
    remove_from_own = Membership.objects.filter(team=key.team_id, user=alice)
    remove_from_own.delete()
    assert judge(admission, text) == [None]


def test_both_secrets_are_valid_during_a_rotation(
    admission: Admission, alice: User, issue: Issue
) -> None:
    key, text = issue(alice)
    newer = keystring.generate(key.public_id)
    Secret.objects.create(
        key=key, prefix=newer.prefix, digest=digest(newer.text), last4=newer.last4
    )
    old, new = judge(admission, text, newer.text)
    assert isinstance(old, Verdict)
    assert isinstance(new, Verdict)
    assert (old.public_id, old.secret_id) != (new.public_id, new.secret_id)
    assert old.public_id == new.public_id


def test_a_key_expires_by_the_databases_clock(
    admission: Admission, statements: list[Statement], alice: User, issue: Issue
) -> None:
    expires_at = database_now() + timedelta(seconds=1)
    _, text = issue(alice, expires_at=expires_at)
    asked_at = database_now()
    while judge(admission, text) != [None]:
        assert asked_at <= expires_at  # SQLite's clock has whole milliseconds.
        time.sleep(0.02)
        asked_at = database_now()
    assert database_now() >= expires_at
    # Our own clock is no parameter.
    for _, params in verdicts_in(statements):
        assert params in ((digest(text),), ([digest(text)],))


def test_many_keys_cost_one_select(
    admission: Admission, statements: list[Statement], alice: User, issue: Issue
) -> None:
    texts = [issue(alice, f"key {number}")[1] for number in range(12)]
    verdicts = judge(admission, *texts)
    assert len({verdict.secret_id for verdict in verdicts if isinstance(verdict, Verdict)}) == 12
    assert len(verdicts_in(statements)) == 1


def test_each_request_of_a_batch_gets_its_own_verdict(
    admission: Admission, alice: User, bob: User, issue: Issue
) -> None:
    (first, first_text), (second, second_text) = issue(alice, "a"), issue(bob, "b")
    verdicts = judge(admission, UNKNOWN, second_text, UNKNOWN, first_text, second_text)
    assert [verdict and getattr(verdict, "public_id", verdict) for verdict in verdicts] == [
        None,
        second.public_id,
        None,
        first.public_id,
        second.public_id,
    ]


def test_no_verdict_is_cached(
    admission: Admission, statements: list[Statement], alice: User, issue: Issue
) -> None:
    _, text = issue(alice)
    for count in range(1, 6):
        judge(admission, text)
        assert len(verdicts_in(statements)) == count


def test_statements_are_few_enough_to_be_prepared(
    admission: Admission, statements: list[Statement]
) -> None:
    for size in range(2, 66):
        judge(admission, *(f"{number}" for number in range(size)))
    texts = {sql for sql, _ in statements}
    assert len(texts) == (1 if connection.vendor == "postgresql" else 7)  # 1, 2, 4 ... 64


def test_all_waiting_requests_fit_into_one_statement(
    admission: Admission, statements: list[Statement]
) -> None:
    verdicts = judge(admission, *(str(number) for number in range(batcher.MAX_WAITING)))
    assert len(verdicts) == batcher.MAX_WAITING
    assert set(verdicts) == {None}
    assert len(statements) == 1


async def arrivals(admission: Admission, seconds: float, turns: int = 2) -> int:
    """Start two requests in each iteration of the event loop, for this time and at least `turns`.

    Returns the number of requests.
    """
    waiting: list[asyncio.Task[Any]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(waiting) < 2 * turns:
        keys = (f"{len(waiting)}", f"{len(waiting)}, too")
        waiting += [asyncio.create_task(admission.judge(digest(key))) for key in keys]
        await asyncio.sleep(0)
    return len(await asyncio.gather(*waiting))


@pytest.mark.any_database
def test_batch_waits_while_each_iteration_brings_new_requests(
    admission: Admission, statements: list[Statement], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "COLLECT_SECONDS", PATIENCE)
    assert asyncio.run(arrivals(admission, 0.005)) > 2
    assert len(statements) == 1


@pytest.mark.any_database
def test_batch_waits_at_most_collect_seconds(
    admission: Admission, statements: list[Statement]
) -> None:
    """Otherwise a steady flow of requests would delay the first one for ever."""
    # A busy machine may hold the loop until all have come, but not each time.
    for _ in range(50):
        statements.clear()
        asyncio.run(arrivals(admission, 20 * batcher.COLLECT_SECONDS, turns=20))
        if len(statements) > 1:
            return
    pytest.fail("Each time, one batch waited for all requests.")


@pytest.mark.any_database
def test_single_request_does_not_wait(admission: Admission) -> None:
    """Its batch starts after the callbacks that were ready."""

    async def turns_until_batch() -> int:
        task = asyncio.create_task(admission.judge(digest("anything")))
        turns = 0
        while not admission._is_batch_running:
            await asyncio.sleep(0)
            turns += 1
        await task
        return turns

    # The request arrives in the first iteration, and its batch starts in the second.
    assert asyncio.run(turns_until_batch()) <= 2


def test_catalog_change_is_visible_in_the_next_batch(
    admission: Admission, alice: User, issue: Issue, model: ServedModel
) -> None:
    _, text = issue(alice)
    judge(admission, text)
    assert set(admission.catalog.models) == {model.name}
    server = Upstream.objects.get(base_url=BUILT_IN_URL)
    public = ServedModel.objects.create(name="public/new")
    Route.objects.create(model=public, upstream=server, upstream_model="new")
    judge(admission, text)
    assert admission.catalog.models["public/new"].targets
    public.delete()
    judge(admission, text)
    assert set(admission.catalog.models) == {model.name}


def test_an_unchanged_catalog_is_not_read_again(
    admission: Admission, statements: list[Statement], alice: User, issue: Issue, model: ServedModel
) -> None:
    _, text = issue(alice)
    judge(admission, text)
    statements.clear()
    catalog = admission.catalog
    judge(admission, text)
    assert admission.catalog is catalog
    assert len(statements) == 1


def test_error_fails_only_its_own_batch(
    admission: Admission,
    alice: User,
    issue: Issue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, text = issue(alice)
    with monkeypatch.context() as patched:
        patched.setattr(verdict_module, "_verdict", lambda _: 1 / 0)
        assert {type(one) for one in judge(admission, text, text, text)} == {DatabaseUnavailable}
        assert {type(one) for one in judge(admission, text)} == {DatabaseUnavailable}
    assert isinstance(judge(admission, text)[0], Verdict)
    assert isinstance(judge(admission, text)[0], Verdict)
    # Logged when it goes down and when it is back, not for every batch in between.
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


def test_connection_is_replaced_after_a_failure(
    admission: Admission, alice: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = issue(alice)
    judge(admission, text)
    before = in_thread(admission, lambda: connections["admission"].connection)
    with monkeypatch.context() as patched:
        patched.setattr(verdict_module, "_verdict", lambda _: 1 / 0)
        judge(admission, text)
    judge(admission, text)
    assert in_thread(admission, lambda: connections["admission"].connection) is not before


def break_connection(admission: Admission) -> None:
    """What a restart of the database does to an idle connection."""

    def close() -> None:
        # SQLite has no server; this is what Django would see if it had one that went down.
        connections["admission"].connection.close()
        connections["admission"].is_usable = lambda: False  # type: ignore[method-assign]

    if connection.vendor == "sqlite":
        in_thread(admission, close)
        return
    pid = in_thread(admission, lambda: connections["admission"].connection.info.backend_pid)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert cursor.fetchone() == (True,)


def test_connection_that_broke_while_idle_is_replaced_within_the_batch(
    admission: Admission, alice: User, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = issue(alice)
    judge(admission, text)
    break_connection(admission)
    assert isinstance(judge(admission, text)[0], Verdict)
    assert not caplog.records


def test_late_verdict_fails_and_the_next_one_works(
    admission: Admission, alice: User, issue: Issue, gate: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "VERDICT_SECONDS", 0.05)
    _, text = issue(alice)

    async def late_then_again() -> None:
        # The second waits behind the first, but no longer than it would wait alone.
        for verdict in await judge_all(admission, text, text):
            assert isinstance(verdict, DatabaseUnavailable)
        monkeypatch.setattr(batcher, "VERDICT_SECONDS", PATIENCE)
        asyncio.get_running_loop().call_later(0.05, gate.set)
        (verdict,) = await judge_all(admission, text)
        assert isinstance(verdict, Verdict)

    asyncio.run(late_then_again())


def test_each_request_has_its_own_deadline(
    admission: Admission, gate: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "VERDICT_SECONDS", 0.2)

    async def waits(begin_in: float) -> float:
        await asyncio.sleep(begin_in)
        began = time.monotonic()
        with pytest.raises(DatabaseUnavailable):
            await admission.judge(digest("anything"))
        return time.monotonic() - began

    async def all_of_them() -> list[float]:
        return await asyncio.gather(*map(waits, (0, 0.01, 0.15, 0.25, 0.5)))

    for waited in asyncio.run(all_of_them()):
        assert waited > 0.19


@pytest.mark.any_database
def test_too_many_waiting_requests_are_refused(
    admission: Admission, alice: User, issue: Issue, gate: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "MAX_WAITING", 3)
    _, text = issue(alice)

    async def crowd() -> list[Verdict | BaseException | None]:
        asyncio.get_running_loop().call_later(0.05, gate.set)
        return await judge_all(admission, *[text] * 6)

    kinds = [type(one) for one in asyncio.run(crowd())]
    assert kinds == [Verdict] * 3 + [Overloaded] * 3
    assert isinstance(judge(admission, text)[0], Verdict)


def test_cancelled_request_does_not_disturb_the_others(
    admission: Admission, alice: User, issue: Issue, gate: Event
) -> None:
    _, text = issue(alice)

    async def crowd() -> list[Verdict | BaseException | None]:
        waiting = [asyncio.ensure_future(admission.judge(digest(text))) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # In the running batch.
        waiting[2].cancel()  # In the next one.
        await asyncio.sleep(0)
        gate.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    kinds = [type(one) for one in asyncio.run(crowd())]
    gone = asyncio.CancelledError
    assert kinds == [gone, Verdict, gone, Verdict, Verdict]


def test_closing_closes_the_connection_in_its_own_thread(alice: User, issue: Issue) -> None:
    admission = Admission("worker")
    judge(admission, issue(alice)[1])
    handler = in_thread(admission, lambda: connections["admission"])
    assert handler.connection is not None
    close(admission)
    assert handler.connection is None
