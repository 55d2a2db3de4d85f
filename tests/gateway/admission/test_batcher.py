"""A verdict is read after its request arrived, for many at once, and none is ever kept."""

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
from keyportal.gateway.admission import batch
from keyportal.gateway.admission import batcher as module
from keyportal.gateway.admission import verdict as verdict_module
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Reading, Verdict, read
from keyportal.gateway.errors import DatabaseUnavailable, Overloaded
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rules.permissions import NamePatterns, Permissions
from keyportal.teams.models import Membership, Team, User
from tests.support.statements import Statement, statements_of

# Committed, and with leave for the admission thread's own connection to the same database.
pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "admission"])
Issue = Callable[..., tuple[ApiKey, str]]
UNKNOWN = keystring.generate().text
PATIENCE = 60.0  # Seconds that a busy machine may need for what takes it milliseconds.


def in_thread(admission: Admission, work: Callable[[], Any]) -> Any:
    """Connections belong to threads: this reaches admission's."""
    return admission._thread.submit(work).result(timeout=PATIENCE)


@pytest.fixture
def admission(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Admission]:
    """Time-outs are the subject of one test alone."""
    monkeypatch.setattr(module, "VERDICT_SECONDS", PATIENCE)
    admission = Admission("worker")
    yield admission
    close(admission)


def close(admission: Admission) -> None:
    asyncio.run(admission.close())
    admission._thread.shutdown()  # Waits: an open connection would keep the database from going.


def verdicts_in(statements: list[Statement]) -> list[Statement]:
    return [(sql, params) for sql, params in statements if "keys_secret" in sql]


@pytest.fixture
def statements(admission: Admission) -> list[Statement]:
    return statements_of(admission)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Holds every batch until it is set."""
    gate = Event()

    def held(digests: list[bytes], catalog: Snapshot) -> Reading:
        gate.wait(PATIENCE)
        return read(digests, catalog)

    monkeypatch.setattr(batch, "read", held)
    yield gate
    gate.set()


def digest(key: str) -> bytes:
    return keystring.digest(key.encode())


async def judge_all(admission: Admission, *keys: str) -> list[Verdict | BaseException | None]:
    return await asyncio.gather(
        *(admission.judge(digest(key)) for key in keys), return_exceptions=True
    )


def judge(admission: Admission, *keys: str) -> list[Verdict | BaseException | None]:
    """Asked at the same moment: the first is read at once, all others in the batch after it."""
    return asyncio.run(judge_all(admission, *keys))


def database_now() -> datetime:
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SELECT now()")
            return cursor.fetchone()[0]  # type: ignore[no-any-return]  # a timestamptz
        cursor.execute("SELECT strftime('%%Y-%%m-%%d %%H:%%M:%%f+00:00', 'now')", [])
        return datetime.fromisoformat(cursor.fetchone()[0])


def test_a_good_key_gets_its_verdict(
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
        )
    ]


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


ENDS = [
    delete,
    expire,
    expire_secret,
    disable,
    deactivate_owner,
    remove_owner,
    deactivate_team,
]


@pytest.mark.parametrize("end", ENDS)
def test_a_key_that_has_ended_is_refused_from_the_next_batch_on_like_an_unknown_one(
    end: Callable[[ApiKey], None],
    admission: Admission,
    statements: list[Statement],
    alice: User,
    issue: Issue,
) -> None:
    key, text = issue(alice)
    assert isinstance(judge(admission, text)[0], Verdict)
    thread = in_thread(admission, lambda: connections["admission"].connection)
    end(key)
    statements.clear()
    assert judge(admission, text) == [None]
    assert judge(admission, UNKNOWN) == [None]
    (ended, _), (unknown, _) = statements
    assert ended == unknown
    # The connection was kept: no snapshot in it may outlive the batch.
    assert in_thread(admission, lambda: connections["admission"].connection) is thread


def test_an_owner_who_is_a_member_elsewhere_only_is_refused(
    admission: Admission, other_team: Team, alice: User, issue: Issue
) -> None:
    key, text = issue(alice)
    Membership.objects.create(team=other_team, user=alice)
    remove_from_own = Membership.objects.filter(team=key.team_id, user=alice)
    remove_from_own.delete()
    assert judge(admission, text) == [None]


def test_both_secrets_pass_while_a_rotation_overlaps(
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
    # Nothing of our own clock goes along.
    for _, params in verdicts_in(statements):
        assert params in ((digest(text),), ([digest(text)],))


def test_fifty_keys_cost_one_select(
    admission: Admission, statements: list[Statement], team: Team, alice: User, issue: Issue
) -> None:
    Team.objects.filter(pk=team.pk).update(key_limit=100)
    texts = [issue(alice, f"key {number}")[1] for number in range(51)]
    verdicts = judge(admission, *texts)
    assert len({verdict.secret_id for verdict in verdicts if isinstance(verdict, Verdict)}) == 51
    assert len(verdicts_in(statements)) == 1


def test_everyone_in_a_batch_gets_their_own_verdict(
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


def test_no_verdict_is_kept(
    admission: Admission, statements: list[Statement], alice: User, issue: Issue
) -> None:
    _, text = issue(alice)
    for asked in range(1, 6):
        judge(admission, text)
        assert len(verdicts_in(statements)) == asked


def test_statements_are_few_enough_to_stay_prepared(
    admission: Admission, statements: list[Statement]
) -> None:
    for size in range(2, 66):
        judge(admission, *(f"{number}" for number in range(size)))
    texts = {sql for sql, _ in statements}
    assert len(texts) == (1 if connection.vendor == "postgresql" else 7)  # 1, 2, 4 ... 64


def test_as_many_as_may_wait_fit_into_one_statement(
    admission: Admission, statements: list[Statement]
) -> None:
    verdicts = judge(admission, *(str(number) for number in range(module.MAX_WAITING)))
    assert len(verdicts) == module.MAX_WAITING
    assert set(verdicts) == {None}
    assert len(statements) == 1


async def arrivals(admission: Admission, seconds: float, turns: int = 2) -> int:
    """Two ask in each turn of the loop, for so long, and for so many turns on a machine on which
    one takes as long: one of them finds the other waiting.

    Returns how many have asked, and were answered.
    """
    waiting: list[asyncio.Task[Any]] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(waiting) < 2 * turns:
        keys = (f"{len(waiting)}", f"{len(waiting)}, too")
        waiting += [asyncio.create_task(admission.judge(digest(key))) for key in keys]
        await asyncio.sleep(0)
    return len(await asyncio.gather(*waiting))


def test_a_batch_waits_while_each_turn_of_the_loop_brings_somebody_new(
    admission: Admission, statements: list[Statement], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "GATHER_SECONDS", PATIENCE)
    assert asyncio.run(arrivals(admission, 0.005)) > 2
    assert len(statements) == 1


def test_a_batch_waits_for_a_moment_and_no_longer(
    admission: Admission, statements: list[Statement]
) -> None:
    """Else those who keep coming would keep the first from ever being judged."""
    asyncio.run(arrivals(admission, 20 * module.GATHER_SECONDS, turns=20))
    assert len(statements) > 1


def test_whoever_is_alone_does_not_wait(admission: Admission) -> None:
    """Not one turn: the batch begins when what was ready has run."""

    async def turns_until_it_is_read() -> int:
        asking = asyncio.create_task(admission.judge(digest("anything")))
        turns = 0
        while not admission._is_reading:
            await asyncio.sleep(0)
            turns += 1
        await asking
        return turns

    # It asks in the first turn, is looked for in the second.
    assert asyncio.run(turns_until_it_is_read()) <= 2


def test_catalog_changes_are_seen_in_the_batch_after_the_change(
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


def test_whatever_a_batch_raises_all_in_it_are_refused_and_the_next_one_works(
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
    # Told when it goes and when it comes back, not each time in between.
    assert [record.levelno for record in caplog.records] == [logging.ERROR, logging.WARNING]


def test_after_a_failure_the_connection_is_a_new_one(
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


def let_die(admission: Admission) -> None:
    """What a restart of the database does to an idle connection."""

    def close() -> None:
        # SQLite has no server that could go away; this is what Django would see if it had.
        connections["admission"].connection.close()
        connections["admission"].is_usable = lambda: False  # type: ignore[method-assign]

    if connection.vendor == "sqlite":
        in_thread(admission, close)
        return
    pid = in_thread(admission, lambda: connections["admission"].connection.info.backend_pid)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        assert cursor.fetchone() == (True,)


def test_a_connection_that_died_idle_is_replaced_within_the_batch(
    admission: Admission, alice: User, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    _, text = issue(alice)
    judge(admission, text)
    let_die(admission)
    assert isinstance(judge(admission, text)[0], Verdict)
    assert not caplog.records


def test_a_late_verdict_is_none_and_later_ones_come(
    admission: Admission, alice: User, issue: Issue, gate: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VERDICT_SECONDS", 0.05)
    _, text = issue(alice)

    async def late_then_again() -> None:
        # The second waits behind the first, and no longer than it would wait alone.
        for verdict in await judge_all(admission, text, text):
            assert isinstance(verdict, DatabaseUnavailable)
        monkeypatch.setattr(module, "VERDICT_SECONDS", PATIENCE)
        asyncio.get_running_loop().call_later(0.05, gate.set)
        (verdict,) = await judge_all(admission, text)
        assert isinstance(verdict, Verdict)

    asyncio.run(late_then_again())


def test_whoever_comes_later_is_given_up_later(
    admission: Admission, gate: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "VERDICT_SECONDS", 0.2)

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


def test_more_than_may_wait_are_refused_at_once(
    admission: Admission, alice: User, issue: Issue, gate: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    _, text = issue(alice)

    async def crowd() -> list[Verdict | BaseException | None]:
        asyncio.get_running_loop().call_later(0.05, gate.set)
        return await judge_all(admission, *[text] * 6)

    kinds = [type(one) for one in asyncio.run(crowd())]
    assert kinds == [Verdict] * 3 + [Overloaded] * 3
    assert isinstance(judge(admission, text)[0], Verdict)


def test_who_goes_away_while_waiting_does_not_disturb_the_others(
    admission: Admission, alice: User, issue: Issue, gate: Event
) -> None:
    _, text = issue(alice)

    async def crowd() -> list[Verdict | BaseException | None]:
        waiting = [asyncio.ensure_future(admission.judge(digest(text))) for _ in range(5)]
        await asyncio.sleep(0)
        waiting[0].cancel()  # In the batch that is being read.
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
    kept = in_thread(admission, lambda: connections["admission"])
    assert kept.connection is not None
    close(admission)
    assert kept.connection is None
