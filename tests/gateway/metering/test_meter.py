"""The meter collects usage, writes it once a second in a thread, and repeats failed writes."""

import asyncio
import logging
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.db.models import Sum
from hypothesis import given
from hypothesis import strategies as st

from keyportal.audit.models import Tombstone
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.calls import Call
from keyportal.gateway.errors import InvalidKey, PermissionDenied
from keyportal.gateway.metering import meter as module
from keyportal.gateway.metering import usage_sql as writing
from keyportal.gateway.metering.anomalies import AnomalyDetector
from keyportal.gateway.metering.meter import SLICE, Meter
from keyportal.gateway.metering.reported_usage import TokenDetails
from keyportal.gateway.metering.usage_sql import CallRecord, Flush, LastUse
from keyportal.gateway.metering.writer import Writer
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import User
from keyportal.usage.models import LATENCY_COLUMNS, UsageDay, UsageHour, UsageMinute
from keyportal.usage.models import Call as CallRow
from tests.support.calls import make_call, make_verdict
from tests.support.clock import ensure_time_left

database = pytest.mark.django_db(transaction=True, databases=["default", "meter"])
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def meter(db: None) -> Iterator[Meter]:
    meter = Meter("worker", Writer())
    yield meter
    close(meter)


def close(meter: Meter) -> None:
    meter._writer.close()
    meter._writer._thread.shutdown()  # Waits: an open connection would keep the database.


def in_thread(meter: Meter, function: Callable[[], Any]) -> Any:
    return meter._writer._thread.submit(function).result(timeout=60)


def flush(meter: Meter) -> None:
    asyncio.run(meter.flush())


def call(key: ApiKey, **more: Any) -> Call:
    verdict, digest = make_verdict(key), bytes(key.current_secret.digest)

    async def make() -> Call:
        return make_call(verdict, digest=digest, **more)

    return asyncio.run(make())


def finished_call(
    key: ApiKey, *, status: int = 200, model: str = "a/b", prompt: int = 3, completion: int = 5
) -> Call:
    over = call(key)
    over.status, over.model, over.endpoint = status, model, "/chat/completions"
    over.tokens.prompt, over.tokens.completion = prompt, completion
    return over


@database
def test_flush_writes_last_use(meter: Meter, alice: User, issue: Issue) -> None:
    key, _ = issue(alice)
    before = datetime.now(UTC)
    meter.record_use(call(key, headers=[(b"user-agent", b"OpenAI/Python 3")]))
    flush(meter)
    used = key.secrets.get()
    assert used.last_used_at is not None
    # Databases store microseconds or less.
    assert before - timedelta(seconds=1) < used.last_used_at <= datetime.now(UTC)
    assert used.last_used_address == "192.0.2.7"
    assert used.last_used_user_agent == "OpenAI/Python 3"


@database
def test_newest_use_of_a_secret_wins(meter: Meter, alice: User, issue: Issue) -> None:
    key, _ = issue(alice)
    for number in range(200):
        meter.record_use(call(key, client=(f"192.0.2.{number}", 1)))
    assert len(meter._uses) == 1
    flush(meter)
    assert key.secrets.get().last_used_address == "192.0.2.199"


@database
def test_call_is_written_as_row_and_in_sums_by_minute_hour_and_day(
    meter: Meter, alice: User, bob: User, issue: Issue
) -> None:
    first, second = issue(alice)[0], issue(bob, "b")[0]
    ensure_time_left(10)
    for over in (
        finished_call(first),
        finished_call(first),
        finished_call(first, status=429, prompt=0, completion=0),
        finished_call(first, model="c"),
        finished_call(second, prompt=1000),
    ):
        meter.record_call(over)
    flush(meter)
    assert CallRow.objects.count() == 5
    for table in (UsageMinute, UsageHour, UsageDay):
        rows = {
            (row.public_id, row.owner_id, row.model): (
                row.requests,
                row.failures,
                row.prompt_tokens,
                row.completion_tokens,
                # On a busy machine any of them may have been slow.
                sum(getattr(row, column) for column in LATENCY_COLUMNS),
            )
            for row in table.objects.all()
        }
        assert rows == {
            (first.public_id, first.owner_id, "a/b"): (3, 1, 6, 10, 3),
            (first.public_id, first.owner_id, "c"): (1, 0, 3, 5, 1),
            (second.public_id, second.owner_id, "a/b"): (1, 0, 1000, 5, 1),
        }
    row = CallRow.objects.earliest("pk")
    assert (row.team_slug, row.public_id) == (first.team.slug, first.public_id)
    assert row.owner_id == first.owner_id
    assert (row.model, row.endpoint, row.status) == ("a/b", "/chat/completions", 200)
    assert (row.prompt_tokens, row.completion_tokens) == (3, 5)
    assert row.address == "192.0.2.7"
    assert abs(datetime.now(UTC) - row.started_at) < timedelta(minutes=1)


@database
def test_parts_of_the_tokens_are_written_and_summed(
    meter: Meter, alice: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    details = TokenDetails(*range(1, len(TokenDetails._fields) + 1))
    for tier in ("flex", "priority"):
        over = finished_call(key)
        over.tokens.details, over.tokens.service_tier = details, tier
        meter.record_call(over)
    flush(meter)
    for row in CallRow.objects.all():
        assert {name: getattr(row, name) for name in details._fields} == details._asdict()
    assert {row.service_tier for row in CallRow.objects.all()} == {"flex", "priority"}
    for table in (UsageMinute, UsageHour, UsageDay):
        sums = table.objects.aggregate(**{name: Sum(name) for name in details._fields})
        assert sums == {name: 2 * count for name, count in details._asdict().items()}


@database
def test_sums_grow_over_flushes_by_minute_hour_and_day(
    meter: Meter, alice: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    for _ in range(3):
        meter.record_call(finished_call(key))
        flush(meter)
    assert sum(UsageMinute.objects.values_list("requests", flat=True)) == 3
    for day in UsageDay.objects.all():
        assert (day.start.hour, day.start.minute, day.start.second) == (0, 0, 0)
    for hour in UsageHour.objects.all():
        assert (hour.start.minute, hour.start.second) == (0, 0)
    for minute in UsageMinute.objects.all():
        assert minute.start.second == 0


def test_latency_is_counted_in_its_histogram_bin() -> None:
    for milliseconds, bucket in ((0, 0), (50, 0), (51, 1), (999, 4), (100_000, 10), (100_001, 11)):
        record = writing.CallRecord("r", 0.0, "t", "k", 7, "/e", "m", 200, duration_ms=milliseconds)
        ((_, row),) = writing.add_records([record], {}).items()
        assert row[writing.FIRST_LATENCY :].index(1) == bucket


@database
def test_empty_flush_writes_nothing(meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "write", lambda _: pytest.fail("Something was written."))
    flush(meter)
    flush(meter)


@database
def test_written_usage_is_not_written_again(meter: Meter, alice: User, issue: Issue) -> None:
    meter.record_call(finished_call(issue(alice)[0]))
    flush(meter)
    flush(meter)
    assert CallRow.objects.count() == UsageDay.objects.get().requests == 1


@database
def test_flush_with_unknown_outcome_is_repeated_and_counts_once(
    meter: Meter, alice: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks during the commit; here just after the database has committed."""
    write = writing.write

    def lose_the_answer(flush: Flush) -> object:
        write(flush)
        raise OperationalError("The connection was lost.")

    key, _ = issue(alice)
    meter.record_call(finished_call(key))
    with monkeypatch.context() as patched:
        patched.setattr(writing, "write", lose_the_answer)
        flush(meter)
        meter.record_call(finished_call(key))
        flush(meter)
    flush(meter)
    assert CallRow.objects.count() == 2
    assert UsageDay.objects.get().requests == 2


@database
def test_failed_flush_writes_nothing(
    meter: Meter, alice: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = issue(alice)
    meter.record_use(call(key))
    meter.record_call(finished_call(key))

    def fail(*_: object) -> None:
        raise OperationalError("The database is away.")

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_write_last_uses", fail)
        flush(meter)
    assert not CallRow.objects.exists()
    assert not UsageDay.objects.exists()
    flush(meter)
    assert CallRow.objects.count() == 1


@database
def test_failed_flush_is_repeated_and_newer_use_wins(
    meter: Meter,
    alice: User,
    bob: User,
    issue: Issue,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first, second = issue(alice)[0], issue(bob, "b")[0]

    def fail(flush: Flush) -> object:
        # During the failing flush, the first secret is used again.
        meter.record_use(call(first, client=("192.0.2.99", 1)))
        raise OperationalError("The database is away.")

    meter.record_use(call(first, client=("192.0.2.1", 1)))
    meter.record_use(call(second, client=("192.0.2.2", 1)))
    with monkeypatch.context() as patched:
        patched.setattr(writing, "write", fail)
        flush(meter)
        flush(meter)
    assert first.secrets.get().last_used_at is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]  # Once.
    flush(meter)
    assert first.secrets.get().last_used_address == "192.0.2.99"
    assert second.secrets.get().last_used_address == "192.0.2.2"


@database
def test_bounded_memory_drops_rows_and_never_sums(
    meter: Meter, alice: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_RECORDS", 20)
    monkeypatch.setattr(module, "SLICE", 10)
    over = finished_call(issue(alice)[0])
    for _ in range(1000):
        meter.record_call(over)
        assert len(meter._records) <= 20
    flush(meter)
    assert 10 <= CallRow.objects.count() <= 20
    assert UsageDay.objects.get().requests == 1000
    assert UsageDay.objects.get().completion_tokens == 5000


@database
def test_a_call_is_found_by_its_time_with_and_without_a_fraction() -> None:
    """SQLite compares times as text, so they are written as Django writes them."""
    moments = [datetime(2026, 11, 29, 18, 0, 5, fraction, UTC) for fraction in (0, 1, 250_000)]
    records = [
        CallRecord(f"req_{at.microsecond}", at.timestamp(), "team", "publicid", 1, "", "", 200)
        for at in moments
    ]
    writing.write(Flush("one", records, {}, {}, {}, {}, {}, set()))
    assert [CallRow.objects.get(started_at=at).request_id for at in moments] == [
        "req_0",
        "req_1",
        "req_250000",
    ]


@database
def test_many_rows_are_written_in_slices_in_one_order(
    meter: Meter, alice: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = issue(alice)
    Secret.objects.bulk_create(
        Secret(
            key=key, digest=keystring.digest(str(number).encode()), prefix="sk-kp-", last4="0000"
        )
        for number in range(120)
    )
    monkeypatch.setattr(module, "SLICE", 50)
    sizes: list[tuple[int, int]] = []
    write = writing.write

    def count(flush: Flush) -> object:
        sizes.append((len(flush.records), len(flush.uses)))
        return write(flush)

    monkeypatch.setattr(writing, "write", count)
    over = finished_call(key)
    for pk in Secret.objects.order_by("-pk").values_list("pk", flat=True):
        over.verdict = over.verdict._replace(secret_id=pk)
        meter.record_use(over)
        meter.record_call(over)
    flush(meter)
    assert not Secret.objects.filter(last_used_at=None).exists()
    assert sizes == [(50, 50), (50, 50), (21, 21)]
    assert CallRow.objects.count() == 121


@database
def test_last_use_of_a_key_deleted_meanwhile_is_on_its_receipt(
    meter: Meter, alice: User, bob: User, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    gone, stays = issue(alice)[0], issue(bob, "b")[0]
    meter.record_use(call(gone, client=("192.0.2.44", 1), headers=[(b"user-agent", b"thief/1")]))
    meter.record_use(call(stays))
    gone.revoke(actor=None)
    flush(meter)
    assert stays.secrets.get().last_used_at is not None
    assert Secret.objects.count() == 1
    receipt = Tombstone.objects.get()
    assert (receipt.last_used_address, receipt.last_used_user_agent) == ("192.0.2.44", "thief/1")
    assert not caplog.records


@database
def test_refusals_of_deleted_keys_are_counted_and_of_unknown_keys_ignored(
    meter: Meter, alice: User, issue: Issue
) -> None:
    key, text = issue(alice)
    key.revoke(actor=None)
    for _ in range(3):
        meter.record_refusal(keystring.digest(text.encode()), key.public_id)
        meter.record_refusal(keystring.digest(keystring.generate().text.encode()), "unknown")
    flush(meter)
    receipt = Tombstone.objects.get()
    assert (receipt.refused_requests, receipt.ended_calls) == (3, 0)
    assert receipt.last_refused_at is not None
    assert abs(datetime.now(UTC) - receipt.last_refused_at) < timedelta(minutes=1)


def test_flood_of_unknown_keys_takes_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_REFUSED", 10)
    meter = Meter("worker", Writer())
    for number in range(100):
        meter.record_refusal(str(number).encode(), "unknown")
        meter.record_refusal(b"0", "unknown")
    assert len(meter._refused) == 10
    assert meter._refused[b"0"] == 101


def test_flood_of_lookups_takes_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS", 10)
    meter = Meter("worker", Writer())

    async def look() -> None:
        for number in range(100):
            meter.record_lookup(
                make_call(Verdict(7, "7QmX2aPd", 1), client=(f"192.0.2.{number}", 1))
            )

    asyncio.run(look())
    assert len(meter._lookups) == 10


@database
def test_calls_cut_off_by_deletion_are_on_its_receipt(
    meter: Meter, alice: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    cut = finished_call(key, status=401)
    cut.ended_by = InvalidKey()
    key.revoke(actor=None)
    meter.record_call(cut)
    meter.record_call(cut)
    flush(meter)
    assert Tombstone.objects.get().ended_calls == 2


@database
def test_failed_flush_opens_a_new_connection(meter: Meter, alice: User, issue: Issue) -> None:
    key, _ = issue(alice)
    meter.record_use(call(key))
    flush(meter)

    def break_off() -> None:
        connections["meter"].connection.close()

    in_thread(meter, break_off)
    meter.record_use(call(key, client=("192.0.2.8", 1)))
    flush(meter)
    flush(meter)
    assert key.secrets.get().last_used_address == "192.0.2.8"


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
def test_any_peer_address_can_be_written(
    client: tuple[str, int] | None, stored: str | None, meter: Meter, alice: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    meter.record_use(call(key, client=client))
    meter.record_call(call(key, client=client))
    flush(meter)
    used = key.secrets.get()
    assert used.last_used_at is not None
    assert used.last_used_address == CallRow.objects.get().address == stored


@database
@pytest.mark.parametrize(
    "sent",
    [b"a\x00b", bytes(range(256)), b"\xff" * 500, b"x" * 100_000],
    ids=["nul", "all", "high", "long"],
)
def test_any_user_agent_can_be_written(
    sent: bytes, meter: Meter, alice: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    meter.record_use(call(key, headers=[(b"user-agent", sent)]))
    meter.record_call(call(key, headers=[(b"user-agent", sent)]))
    flush(meter)
    stored = key.secrets.get().last_used_user_agent
    assert stored == CallRow.objects.get().user_agent == writing._user_agent_text(sent)


@database
def test_closing_the_writer_closes_the_connection_in_its_own_thread(
    alice: User, issue: Issue
) -> None:
    meter = Meter("worker", Writer())
    meter.record_use(call(issue(alice)[0]))
    flush(meter)
    kept = in_thread(meter, lambda: connections["meter"])
    close(meter)
    assert kept.connection is None


def test_meter_flushes_periodically(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FLUSH_SECONDS", 0.01)
    written: queue.Queue[set[bytes]] = queue.Queue()

    def write(flush: Flush) -> dict[str, int]:
        written.put(set(flush.refused))
        return {}

    monkeypatch.setattr(writing, "write", write)
    monkeypatch.setattr(AnomalyDetector, "detect", lambda *_: None)

    async def use_twice() -> None:
        meter = Meter("worker", Writer())
        flushing = asyncio.create_task(meter.flush_forever())
        for digest in (b"1", b"2"):
            meter.record_refusal(digest, "unknown")
            assert await asyncio.to_thread(written.get, timeout=60) == {digest}
        flushing.cancel()
        meter._writer._thread.shutdown()

    asyncio.run(use_twice())
    assert written.empty()


@given(st.binary(max_size=400))
def test_an_agent_is_short_printable_text(sent: bytes) -> None:
    shown = writing._user_agent_text(sent)
    assert len(shown) <= 200
    assert shown.isprintable()


@pytest.mark.parametrize(
    "around", [b"%s", b"Bearer %s", b"x" * 150 + b"%s", b"curl/8 (%s)", b"%s %s", b"\x00%s"]
)
def test_a_key_in_the_agent_is_redacted(around: bytes) -> None:
    key = keystring.generate().text
    shown = writing._user_agent_text(around.replace(b"%s", key.encode()))
    assert key[:20] not in shown
    assert key[-20:] not in shown


def test_key_hidden_by_control_characters_is_redacted_too() -> None:
    key = keystring.generate().text
    hidden = "\x01".join(key).encode()
    assert key[14:30] not in writing._user_agent_text(hidden)


@database
def test_unwritable_usage_is_dropped_and_later_usage_is_written(
    meter: Meter, alice: User, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    key, _ = issue(alice)
    meter.record_call(finished_call(key, prompt=10**30))
    flush(meter)
    meter.record_call(finished_call(key))
    flush(meter)
    assert CallRow.objects.get().prompt_tokens == 3
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


outcomes = st.tuples(
    st.sampled_from([7, 8]),
    st.sampled_from([200, 399, 400, 403]),
    st.sampled_from([0, 1, 50, 51, 2000, 200_000]),
)


@given(st.lists(outcomes))
def test_verifications_without_rows_have_the_same_sums(calls: list[tuple[int, int, int]]) -> None:
    minute = 1_800_000_000
    rows = [
        CallRecord(
            "req_1", minute - took / 1000, "t", "k", owner, "/", "m", status, duration_ms=took
        )
        for owner, status, took in calls
    ]
    alike = Counter(
        (minute, "t", "k", owner, "m", status >= 400, took) for owner, status, took in calls
    )
    sums: writing.Sums = {}
    writing.add_verifications(alike, sums)
    assert sums == writing.add_records(rows, {})


@database
def test_verifications_that_cannot_be_written_are_kept_as_sums(
    meter: Meter, alice: User, issue: Issue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each duration in ms has an entry of its own, so memory would grow during an outage."""
    monkeypatch.setattr(module, "MAX_RECORDS", 10)
    key, _ = issue(alice)
    verdict = make_verdict(key)
    for took in range(SLICE + 100):
        use = LastUse(bytes(key.current_secret.digest), time.time() - took, "192.0.2.7", b"")
        meter.record_verification(verdict, use, "/auth/verify", "", None, "req_1")
        assert len(meter._verifications) <= 10
    flush(meter)
    assert sum(UsageMinute.objects.values_list("requests", flat=True)) == SLICE + 100


@database
def test_some_of_many_verifications_have_rows_and_all_are_in_sums(
    meter: Meter, alice: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    use = LastUse(bytes(key.current_secret.digest), time.time() - 7, "192.0.2.7", b"a-proxy")
    verdict = make_verdict(key)
    for error in [None] * (2 * SLICE) + [PermissionDenied()] * SLICE:
        meter.record_verification(verdict, use, "/auth/verify", "public/a", error, "req_1")
    flush(meter)
    assert CallRow.objects.filter(status=200, duration_ms__gte=7000).count() == SLICE
    assert CallRow.objects.count() == SLICE
    sums = UsageMinute.objects.filter(owner_id=alice.pk, model="public/a").aggregate(
        requests=Sum("requests"), failures=Sum("failures"), took=Sum("duration_ms")
    )
    assert (sums["requests"], sums["failures"]) == (3 * SLICE, SLICE)
    assert sums["took"] >= 3 * SLICE * 7000
    assert key.secrets.get().last_used_user_agent == "a-proxy"
