"""Last uses are gathered, written once a second by a thread of its own, and never lost lightly."""

import asyncio
import logging
import queue
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway import metering as module
from keyportal.gateway.metering import Meter, Use
from keyportal.keys import secret
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import Team, User
from tests.asgi import scope

database = pytest.mark.django_db(transaction=True, databases=["default", "meter"])
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def meter(db: None) -> Iterator[Meter]:
    meter = Meter()
    yield meter
    close(meter)


def close(meter: Meter) -> None:
    asyncio.run(meter.close())
    meter._thread.shutdown()  # Waits: an open connection would keep the database from going.


@pytest.fixture
def writes(meter: Meter) -> list[str]:
    """The statements that write, as the meter's thread makes them."""
    seen: list[str] = []

    def note(
        execute: Callable[..., object], sql: str, params: object, many: bool, context: object
    ) -> object:
        if sql.startswith("UPDATE"):
            seen.append(sql)
        return execute(sql, params, many, context)

    in_thread(meter, lambda: connections["meter"].execute_wrappers.append(note))
    return seen


def in_thread(meter: Meter, work: Callable[[], Any]) -> Any:
    return meter._thread.submit(work).result(timeout=10)


def flush(meter: Meter) -> None:
    asyncio.run(meter.flush())


def agent(sent: bytes) -> str:
    return Use(datetime.now(UTC), scope(headers=[(b"user-agent", sent)])).agent


@database
def test_a_flush_writes_when_from_where_and_with_what(
    meter: Meter, alice: User, issue: Issue
) -> None:
    used = issue(alice)[0].current_secret
    before = datetime.now(UTC)
    meter.saw(used.pk, scope(headers=[(b"user-agent", b"OpenAI/Python 3")]))
    flush(meter)
    used.refresh_from_db()
    assert used.last_used_at is not None
    # Databases keep microseconds or less.
    assert before - timedelta(seconds=1) < used.last_used_at <= datetime.now(UTC)
    assert used.last_used_ip == "192.0.2.7"
    assert used.last_used_agent == "OpenAI/Python 3"


@database
def test_a_secret_costs_one_row_however_often_it_was_used(
    meter: Meter, alice: User, issue: Issue, writes: list[str]
) -> None:
    used = issue(alice)[0].current_secret
    for number in range(1000):
        meter.saw(used.pk, scope(client=(f"192.0.2.{number % 200}", 1)))
    flush(meter)
    used.refresh_from_db()
    assert used.last_used_ip == "192.0.2.199"  # The newest.
    assert len(writes) == 1


@database
def test_without_calls_nothing_is_written(meter: Meter, writes: list[str]) -> None:
    flush(meter)
    flush(meter)
    assert not writes


@database
def test_what_was_written_is_not_written_again(
    meter: Meter, alice: User, issue: Issue, writes: list[str]
) -> None:
    meter.saw(issue(alice)[0].current_secret.pk, scope())
    flush(meter)
    flush(meter)
    assert len(writes) == 1


@database
def test_what_cannot_be_written_is_kept_and_the_newer_use_wins(
    meter: Meter,
    alice: User,
    bob: User,
    issue: Issue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = issue(alice)[0].current_secret, issue(bob, "b")[0].current_secret

    def fail(rows: object) -> None:
        # While it is being tried, the first is used again.
        meter.saw(first.pk, scope(client=("192.0.2.99", 1)))
        raise OperationalError("The database is away.")

    meter.saw(first.pk, scope(client=("192.0.2.1", 1)))
    meter.saw(second.pk, scope(client=("192.0.2.2", 1)))
    with monkeypatch.context() as patched:
        patched.setattr(module, "_write", fail)
        flush(meter)
    first.refresh_from_db()
    assert first.last_used_at is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    flush(meter)
    first.refresh_from_db()
    second.refresh_from_db()
    assert (first.last_used_ip, second.last_used_ip) == ("192.0.2.99", "192.0.2.2")


@database
def test_after_a_failure_the_connection_is_a_new_one(
    meter: Meter, alice: User, issue: Issue
) -> None:
    used = issue(alice)[0].current_secret
    meter.saw(used.pk, scope())
    flush(meter)

    def break_off() -> None:
        connections["meter"].connection.close()

    in_thread(meter, break_off)
    meter.saw(used.pk, scope(client=("192.0.2.8", 1)))
    flush(meter)
    flush(meter)
    used.refresh_from_db()
    assert used.last_used_ip == "192.0.2.8"


@database
def test_many_secrets_are_written_in_slices(
    meter: Meter, team: Team, alice: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = issue(alice)
    Secret.objects.bulk_create(
        Secret(key=key, digest=secret.digest(str(number).encode()), prefix="sk-kp-", last4="0000")
        for number in range(999)
    )
    slices: list[list[int]] = []
    write = module._write

    def count(rows: list[tuple[int, Use]]) -> None:
        slices.append([pk for pk, _ in rows])
        write(rows)

    monkeypatch.setattr(module, "_write", count)
    pks = list(Secret.objects.order_by("-pk").values_list("pk", flat=True))
    for pk in pks:
        meter.saw(pk, scope())
    flush(meter)
    assert not Secret.objects.filter(last_used_at=None).exists()
    assert [len(some) for some in slices] == [module.SLICE] * (1000 // module.SLICE)
    # In one order, so that two workers never wait for each other in a circle.
    assert [pk for some in slices for pk in some] == sorted(pks)


@database
def test_a_key_deleted_meanwhile_is_no_error(
    meter: Meter, alice: User, bob: User, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    gone, stays = issue(alice)[0], issue(bob, "b")[0].current_secret
    meter.saw(gone.current_secret.pk, scope())
    meter.saw(stays.pk, scope())
    gone.revoke(actor=None)
    flush(meter)
    stays.refresh_from_db()
    assert stays.last_used_at is not None
    assert Secret.objects.count() == 1
    assert not caplog.records


@database
@pytest.mark.parametrize(
    ("client", "stored"),
    [
        (("2001:db8::7", 1), "2001:db8::7"),
        (("fe80::1%eth0", 1), "fe80::1"),
        (("", 0), None),
        (None, None),
    ],
)
def test_whatever_the_peer_is_called_it_can_be_written(
    client: tuple[str, int] | None, stored: str | None, meter: Meter, alice: User, issue: Issue
) -> None:
    used = issue(alice)[0].current_secret
    meter.saw(used.pk, scope(client=client))
    flush(meter)
    used.refresh_from_db()
    assert used.last_used_at is not None
    assert used.last_used_ip == stored


@database
@pytest.mark.parametrize("sent", [b"a\x00b", bytes(range(256)), b"\xff" * 500, b"x" * 100_000])
def test_whatever_the_agent_is_called_it_can_be_written(
    sent: bytes, meter: Meter, alice: User, issue: Issue
) -> None:
    used = issue(alice)[0].current_secret
    meter.saw(used.pk, scope(headers=[(b"user-agent", sent)]))
    flush(meter)
    used.refresh_from_db()
    assert used.last_used_agent == agent(sent)


@database
def test_closing_writes_once_more_and_closes_the_connection_in_its_own_thread(
    alice: User, issue: Issue
) -> None:
    used = issue(alice)[0].current_secret
    meter = Meter()
    meter.saw(used.pk, scope())
    kept = in_thread(meter, lambda: connections["meter"])
    close(meter)
    used.refresh_from_db()
    assert used.last_used_at is not None
    assert kept.connection is None


def test_flushes_come_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.01)
    written: queue.Queue[set[int]] = queue.Queue()
    monkeypatch.setattr(module, "write", lambda uses: written.put(set(uses)))

    async def use_twice() -> None:
        meter = Meter()
        flushing = asyncio.create_task(meter.flush_forever())
        for pk in (1, 2):
            meter.saw(pk, scope())
            assert await asyncio.to_thread(written.get, timeout=10) == {pk}
        flushing.cancel()
        await meter.close()

    asyncio.run(use_twice())
    assert written.empty()


@given(st.binary(max_size=400))
def test_an_agent_is_short_printable_text(sent: bytes) -> None:
    shown = agent(sent)
    assert len(shown) <= 200
    assert shown.isprintable()


def test_no_agent_is_empty_text() -> None:
    assert Use(datetime.now(UTC), scope()).agent == ""


@pytest.mark.parametrize(
    "around", [b"%s", b"Bearer %s", b"x" * 150 + b"%s", b"curl/8 (%s)", b"%s %s", b"\x00%s"]
)
def test_a_key_in_the_agent_is_redacted(around: bytes) -> None:
    key = secret.generate().text
    shown = agent(around.replace(b"%s", key.encode()))
    assert key[:20] not in shown
    assert key[-20:] not in shown


def test_a_key_that_control_characters_hide_is_redacted_too() -> None:
    key = secret.generate().text
    hidden = "\x01".join(key).encode()
    assert key[14:30] not in agent(hidden)
