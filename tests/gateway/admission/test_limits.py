"""Limits are exact over all workers, and a refused request is not counted."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from keyportal.gateway.admission import batch as batch_module
from keyportal.gateway.admission import batcher as admission_module
from keyportal.gateway.admission import limiter as limiter_module
from keyportal.gateway.admission import limiter_sql
from keyportal.gateway.admission.batch import Admitted
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.database import database
from keyportal.gateway.admission.limits import Allowance, format_duration
from keyportal.gateway.errors import InsufficientQuota, RateLimitExceeded
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import LEASE_SECONDS, Kind, Lease, Window, window_start
from tests.support.clock import ensure_time_left
from tests.support.statements import record_statements

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "admission"])
Issue = Callable[..., tuple[ApiKey, str]]
Outcome = Admitted | BaseException | None
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def early_in_the_minute() -> None:
    """A test of a one-minute window must not run in two of them."""
    ensure_time_left(8)


@pytest.fixture
def workers(db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Admission]]:
    """Four workers, each with a thread and a connection, like four processes."""
    # A busy machine may need seconds for work of milliseconds.
    monkeypatch.setattr(admission_module, "VERDICT_SECONDS", PATIENCE)
    workers = [Admission(f"worker-{number}") for number in range(4)]
    yield workers
    for worker in workers:
        asyncio.run(worker.close())
        worker._thread.shutdown()  # Waits: an open connection would prevent dropping the database.


@pytest.fixture
def worker(workers: list[Admission]) -> Admission:
    return workers[0]


@pytest.fixture
def limited(alice: User, issue: Issue) -> Callable[..., str]:
    """Issue a key with these limits."""

    def limited(name: str = "test-key", **limits: int) -> str:
        key, text = issue(alice, name)
        ApiKey.objects.filter(pk=key.pk).update(limits=Limits(**limits))
        return text

    return limited


def digest(key: str) -> bytes:
    return keystring.digest(key.encode())


def admit(workers: list[Admission], *keys: str) -> list[Outcome]:
    """Admit one request for each key at the same moment, spread over the workers."""

    async def all_at_once() -> list[Outcome]:
        return await asyncio.gather(
            *(
                workers[number % len(workers)].admit(digest(key), None, is_counted=True)
                for number, key in enumerate(keys)
            ),
            return_exceptions=True,
        )

    return asyncio.run(all_at_once())


def kinds(outcomes: list[Outcome]) -> Counter[str]:
    return Counter(type(outcome).__name__ for outcome in outcomes)


def allowance(outcome: Outcome) -> Allowance:
    assert isinstance(outcome, Admitted)
    assert outcome.allowance is not None
    return outcome.allowance


def complete(worker: Admission, key: str, tokens: int) -> None:
    async def wait() -> None:
        verdict = await worker.judge(digest(key))
        assert verdict is not None
        await worker.complete(verdict.buckets, tokens)

    asyncio.run(wait())


def used(kind: Kind = Kind.MINUTE) -> dict[str, tuple[int, int]]:
    rows = Window.objects.filter(kind=kind)
    return {row.subject.partition(":")[0]: (row.requests, row.tokens) for row in rows}


def test_limit_is_exact_for_a_thousand_requests_on_four_workers(
    workers: list[Admission], limited: Callable[..., str]
) -> None:
    key = limited(requests_per_minute=60)
    ensure_time_left(30)
    outcomes = admit(workers, *[key] * 1000)
    assert kinds(outcomes) == {"Admitted": 60, "RateLimitExceeded": 940}
    assert used() == {"key": (60, 0)}


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("requests_per_minute", Kind.MINUTE, "RateLimitExceeded"),
        ("requests_per_day", Kind.DAY, "InsufficientQuota"),
        ("requests_per_month", Kind.MONTH, "InsufficientQuota"),
    ],
)
def test_each_window_limits_its_requests(
    name: str, kind: Kind, error: str, workers: list[Admission], limited: Callable[..., str]
) -> None:
    key = limited(**{name: 7})
    assert kinds(admit(workers, *[key] * 50)) == {"Admitted": 7, error: 43}
    assert used(kind) == {"key": (7, 0)}
    assert Window.objects.count() == 1


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("tokens_per_minute", Kind.MINUTE, RateLimitExceeded),
        ("tokens_per_day", Kind.DAY, InsufficientQuota),
        ("tokens_per_month", Kind.MONTH, InsufficientQuota),
    ],
)
def test_tokens_limit_later_requests(
    name: str,
    kind: Kind,
    error: type[Exception],
    workers: list[Admission],
    limited: Callable[..., str],
) -> None:
    key = limited(**{name: 100})
    assert kinds(admit(workers, key)) == {"Admitted": 1}
    complete(workers[0], key, 99)
    (outcome,) = admit([workers[1]], key)
    left = allowance(outcome).tokens
    assert left is not None
    assert (left.limit, left.remaining) == (100, 1)
    complete(workers[1], key, 1)
    (outcome,) = admit([workers[2]], key)
    assert isinstance(outcome, error)
    assert used(kind) == {"key": (2, 100)}


def test_team_limit_is_shared_and_refused_requests_use_none_of_it(
    workers: list[Admission], team: Team, limited: Callable[..., str]
) -> None:
    Team.objects.update(limits=Limits(requests_per_minute=20))
    small, free = limited("small", requests_per_minute=3), limited("free")
    assert kinds(admit(workers, *[small] * 200))["Admitted"] == 3
    # Requests that a key's own limit refused are not counted for the team.
    outcomes = admit(workers, *[small, free] * 200)
    assert kinds(outcomes[::2])["Admitted"] == 0
    assert kinds(outcomes[1::2])["Admitted"] == 17
    assert used() == {"key": (3, 0), "team": (20, 0)}


def test_request_over_the_daily_limit_is_not_counted_for_the_minute(
    worker: Admission, limited: Callable[..., str]
) -> None:
    key = limited(requests_per_minute=100, requests_per_day=2)
    admit([worker], *[key] * 10)
    assert used(Kind.DAY) == used(Kind.MINUTE) == {"key": (2, 0)}


def test_limit_of_a_key_does_not_affect_other_keys(
    workers: list[Admission], limited: Callable[..., str]
) -> None:
    full, other = limited("full", requests_per_minute=1), limited("other", requests_per_minute=50)
    free = limited("free")
    outcomes = admit(workers, *[full] * 20, *[other] * 20, *[free] * 20)
    assert kinds(outcomes[:20])["Admitted"] == 1
    assert kinds(outcomes[20:]) == {"Admitted": 40}


def test_a_key_without_limits_costs_one_statement_and_no_row(
    worker: Admission, limited: Callable[..., str]
) -> None:
    key = limited()
    admit([worker], key)
    seen = record_statements(worker)
    (outcome,) = admit([worker], key)
    assert isinstance(outcome, Admitted)
    assert outcome.allowance is None
    assert len(seen) == 1
    assert not Window.objects.exists()


def test_request_for_a_full_window_costs_no_write(
    worker: Admission, limited: Callable[..., str]
) -> None:
    key = limited(requests_per_minute=2)
    admit([worker], *[key] * 5)
    seen = record_statements(worker)
    assert kinds(admit([worker], *[key] * 50)) == {"RateLimitExceeded": 50}
    assert seen
    assert not [sql for sql, _ in seen if "usage" in sql]
    assert used() == {"key": (2, 0)}


def test_end_of_a_call_without_limits_of_tokens_costs_no_write(
    worker: Admission, limited: Callable[..., str]
) -> None:
    key = limited(requests_per_minute=2)
    admit([worker], key)
    seen = record_statements(worker)
    complete(worker, key, 5)
    assert len(seen) == 1  # The verdict, with which `complete` gets the limits.
    assert used() == {"key": (1, 0)}


@pytest.mark.postgresql
def test_batch_within_its_limits_takes_two_statements(
    worker: Admission, limited: Callable[..., str]
) -> None:
    keys = [limited("first", requests_per_minute=9, tokens_per_day=99), limited("second")]
    Team.objects.update(limits=Limits(requests_per_minute=20))
    admit([worker], *keys)
    seen = record_statements(worker)
    assert kinds(admit([worker], *keys * 8)) == {"Admitted": 16}
    assert len(seen) == 2
    assert used() == {"key": (9, 0), "team": (18, 0)}
    assert kinds(admit([worker], *keys)) == {"Admitted": 1, "RateLimitExceeded": 1}
    assert used() == {"key": (9, 0), "team": (19, 0)}


@pytest.mark.postgresql
def test_batch_of_which_one_window_is_new_is_counted_in_all(
    worker: Admission, limited: Callable[..., str]
) -> None:
    """As in the first moment of each minute, in which the windows of the day are there."""
    keys = [limited("first", requests_per_minute=9), limited("second", requests_per_minute=9)]
    admit([worker], keys[0])
    assert kinds(admit([worker], *keys)) == {"Admitted": 2}
    assert sorted(Window.objects.values_list("requests", flat=True)) == [1, 2]


def test_raised_limit_applies_to_the_next_request(
    worker: Admission, limited: Callable[..., str]
) -> None:
    key = limited(requests_per_minute=2)
    admit([worker], *[key] * 5)
    ApiKey.objects.update(limits=Limits(requests_per_minute=4))
    assert kinds(admit([worker], *[key] * 5)) == {"Admitted": 2, "RateLimitExceeded": 3}
    ApiKey.objects.update(limits=Limits())
    assert kinds(admit([worker], *[key] * 5)) == {"Admitted": 5}


def test_new_window_is_empty(
    worker: Admission, limited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = limited(requests_per_minute=2)
    admit([worker], *[key] * 5)
    # As if a minute had passed: the row belongs to an earlier window, and none is known as full.
    Window.objects.update(start=timezone.now() - timedelta(minutes=5))
    full = worker._limiter._full
    worker._limiter._full = {at: total._replace(ends_at=0.0) for at, total in full.items()}
    assert kinds(admit([worker], *[key] * 5)) == {"Admitted": 2, "RateLimitExceeded": 3}


def test_uncounted_request_is_never_refused(worker: Admission, limited: Callable[..., str]) -> None:
    key = limited(requests_per_minute=1)
    admit([worker], key)

    async def admit_uncounted() -> list[Admitted | None]:
        return [await worker.admit(digest(key), None, is_counted=False) for _ in range(3)]

    assert all(asyncio.run(admit_uncounted()))
    assert used() == {"key": (1, 0)}


def test_allowance_is_the_smaller_of_key_and_team(
    worker: Admission, limited: Callable[..., str]
) -> None:
    Team.objects.update(limits=Limits(requests_per_minute=3, tokens_per_day=1000))
    key = limited(requests_per_minute=10, tokens_per_minute=50)
    (outcome,) = admit([worker], key)
    told = allowance(outcome)
    assert told.requests is not None
    assert told.tokens is not None
    assert (told.requests.limit, told.requests.remaining) == (3, 2)
    assert (told.tokens.limit, told.tokens.remaining) == (50, 50)
    assert 0 < told.requests.resets_in <= 60


def test_each_request_of_a_batch_has_its_own_remainder(
    worker: Admission, limited: Callable[..., str]
) -> None:
    key = limited(requests_per_minute=100)
    left = [allowance(outcome).requests.remaining for outcome in admit([worker], *[key] * 10)]  # type: ignore[union-attr]
    assert left == list(range(99, 89, -1))


def test_parallel_requests_are_counted_over_all_workers_and_released(
    workers: list[Admission], limited: Callable[..., str]
) -> None:
    key = limited(parallel_requests=5)
    outcomes = admit(workers, *[key] * 100)
    assert kinds(outcomes) == {"Admitted": 5, "RateLimitExceeded": 95}
    holding = next(n % 4 for n, one in enumerate(outcomes) if isinstance(one, Admitted))
    complete(workers[holding], key, 0)
    assert kinds(admit(workers, *[key] * 20)) == {"Admitted": 1, "RateLimitExceeded": 19}
    assert sum(Lease.objects.values_list("calls", flat=True)) == 5


def test_sequential_requests_never_exceed_a_parallel_limit_of_one(
    workers: list[Admission], limited: Callable[..., str]
) -> None:
    key = limited(parallel_requests=1)
    for number in range(20):
        worker = workers[number % 4]
        assert kinds(admit([worker], key)) == {"Admitted": 1}
        complete(worker, key, 3)


def test_slots_of_a_killed_worker_are_released(
    workers: list[Admission], limited: Callable[..., str]
) -> None:
    key = limited(parallel_requests=2)
    assert kinds(admit([workers[0]], key, key)) == {"Admitted": 2}
    assert kinds(admit([workers[1]], key)) == {"RateLimitExceeded": 1}
    # Worker 0 is killed now.
    expired = timedelta(seconds=LEASE_SECONDS + 1)
    Lease.objects.filter(worker="worker-0").update(renewed_at=timezone.now() - expired)
    assert LEASE_SECONDS + limiter_module.RENEW_SECONDS < 15
    assert kinds(admit([workers[1]], key, key)) == {"Admitted": 2}


def test_live_worker_renews_its_leases(
    worker: Admission, limited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, other = limited("running", parallel_requests=2), limited("other")
    admit([worker], key)
    monkeypatch.setattr(limiter_module, "RENEW_SECONDS", 0)
    Lease.objects.update(renewed_at=timezone.now() - timedelta(hours=1))
    admit([worker], other)  # Any batch renews them, and active calls cause one each second.
    assert timezone.now() - Lease.objects.get().renewed_at < timedelta(seconds=PATIENCE)


def test_teams_have_parallel_limits_too(
    workers: list[Admission], limited: Callable[..., str]
) -> None:
    Team.objects.update(limits=Limits(parallel_requests=3))
    keys = [limited(str(number)) for number in range(10)]
    assert kinds(admit(workers, *keys * 5))["Admitted"] == 3


def test_four_workers_with_many_windows_never_deadlock(
    workers: list[Admission], limited: Callable[..., str]
) -> None:
    Team.objects.update(limits=Limits(requests_per_minute=10**6, tokens_per_day=10**9))
    limits = {"requests_per_minute": 10**6, "requests_per_day": 10**6, "parallel_requests": 10**6}
    keys = [limited(str(number), **limits) for number in range(15)]
    for _ in range(5):
        assert kinds(admit(workers, *keys * 10, *reversed(keys * 10))) == {"Admitted": 300}
    assert used()["team"][0] == 1500


def test_usage_that_could_not_be_written_is_written_later(
    worker: Admission, limited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyportal.gateway.admission.batcher.RETRY_SECONDS", 0.05)
    key = limited(tokens_per_day=100, parallel_requests=1)
    add = limiter_sql.add
    failures = [OSError("The database is down.")]

    def fail_once(additions: Any) -> Any:
        if failures:
            raise failures.pop()
        return add(additions)

    async def call() -> None:
        admitted = await worker.admit(digest(key), None, is_counted=True)
        assert admitted is not None
        monkeypatch.setattr(limiter_sql, "add", fail_once)
        await worker.complete(admitted.verdict.buckets, 42)
        await until_nothing_runs(worker)

    asyncio.run(call())
    assert not failures
    assert used(Kind.DAY) == {"key": (1, 42)}
    assert kinds(admit([worker], key)) == {"Admitted": 1}


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.0, "0ms"),
        (0.0119, "12ms"),
        (0.9, "900ms"),
        (1.0, "1s"),
        (7.5, "7.5s"),
        (59.4, "59.4s"),
        (60.0, "1m0s"),
        (61.2, "1m2s"),
        (3600, "1h0m0s"),
        (82_805, "23h0m5s"),
        (86_400 * 3, "72h0m0s"),
    ],
)
def test_durations_have_the_format_of_openai(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


def test_window_starts_in_sql_and_python_agree(
    worker: Admission, limited: Callable[..., str]
) -> None:
    """The database computes the same starts as `window_start`."""
    counted = {f"requests_per_{unit}": 9 for unit in ("minute", "day", "month")}
    now = timezone.now()
    admit([worker], limited(**counted, parallel_requests=9))
    starts = dict(Window.objects.values_list("kind", "start"))
    assert starts == {kind: window_start(kind, now) for kind in Kind}


class Gate:
    """Delays each batch until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_open = threading.Event()
        process = batch_module.process

        def process_later(*arguments: Any) -> Any:
            self.is_open.wait(PATIENCE)
            return process(*arguments)

        monkeypatch.setattr(admission_module, "process", process_later)


async def until_nothing_runs(worker: Admission) -> None:
    for _ in range(int(PATIENCE / 0.01)):
        if not worker._is_batch_running and not worker._waiting and not +worker._limiter._running:
            return
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["timed out", "cancelled"])
def test_request_that_ends_before_its_verdict_keeps_no_slot(
    how: str, worker: Admission, limited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = limited(parallel_requests=2)
    gate = Gate(monkeypatch)

    async def call() -> None:
        with monkeypatch.context() as patched:
            if how == "timed out":
                patched.setattr(admission_module, "VERDICT_SECONDS", 0.05)
            tasks = [
                asyncio.create_task(worker.admit(digest(key), None, is_counted=True))
                for _ in range(5)
            ]
            await asyncio.sleep(0.2)
        for task in tasks:
            task.cancel()
        gate.is_open.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(outcome, BaseException) for outcome in outcomes)
        await until_nothing_runs(worker)

    asyncio.run(call())
    assert not +worker._limiter._running
    assert kinds(admit([worker], key, key)) == {"Admitted": 2}


def test_request_that_is_cancelled_with_its_verdict_keeps_no_slot(
    worker: Admission, limited: Callable[..., str]
) -> None:
    key = limited(parallel_requests=1)

    async def call() -> None:
        task = asyncio.create_task(worker.admit(digest(key), None, is_counted=True))
        await asyncio.sleep(0)
        resolve = worker._resolve

        def resolve_and_cancel(request: Any, outcome: Any) -> None:
            resolve(request, outcome)
            task.cancel()  # The future is done, and its task has not run yet.

        worker._resolve = resolve_and_cancel  # type: ignore[method-assign]  # for this worker
        with pytest.raises(asyncio.CancelledError):
            await task
        del worker._resolve
        await until_nothing_runs(worker)

    asyncio.run(call())
    assert kinds(admit([worker], key)) == {"Admitted": 1}


def test_failed_renewal_keeps_the_counts(
    worker: Admission, limited: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = limited(parallel_requests=5, tokens_per_day=1000)
    monkeypatch.setattr(limiter_module, "RENEW_SECONDS", 0)

    def fail(_: str) -> None:
        raise OSError("The database is locked.")

    with monkeypatch.context() as patched:
        patched.setattr(limiter_sql, "renew_leases", fail)
        assert kinds(admit([worker], key, key)) == {"Admitted": 2}
        complete(worker, key, 50)
    assert used(Kind.DAY) == {"key": (2, 50)}
    assert sum(Lease.objects.values_list("calls", flat=True)) == 1


def test_stop_loses_no_usage(limited: Callable[..., str]) -> None:
    key, worker = limited(tokens_per_day=1000), Admission("one")

    async def end_and_stop() -> None:
        verdict = await worker.judge(digest(key))
        assert verdict is not None
        for _ in range(5):
            worker.complete(verdict.buckets, 100)
        await worker.close()

    asyncio.run(end_and_stop())
    worker._thread.shutdown()
    assert used(Kind.DAY) == {"key": (0, 500)}


def test_cost_of_a_batch_does_not_depend_on_running_calls(
    worker: Admission, limited: Callable[..., str]
) -> None:
    """Measured by the number of subjects it reads, because time varies on a busy machine."""
    key = limited(parallel_requests=5)
    worker._limiter._running.update({f"key:{number}": 1 for number in range(5000)})
    assert kinds(admit([worker], key)) == {"Admitted": 1}
    assert Lease.objects.count() == 1


@pytest.mark.postgresql
def test_no_statement_is_planned_for_its_parameters(
    worker: Admission, limited: Callable[..., str]
) -> None:
    keys = [limited("first", requests_per_minute=9), limited("second", parallel_requests=1)]
    for _ in range(10):
        admit([worker], *keys)
    custom = "SELECT statement FROM pg_prepared_statements WHERE custom_plans > 0"
    reading = worker._thread.submit(lambda: database().rows(custom))
    assert reading.result(PATIENCE) == []


@pytest.mark.postgresql
def test_windows_are_found_by_an_index(worker: Admission, team: Team) -> None:
    Window.objects.bulk_create(
        Window(subject=f"key:{n}", kind=Kind.DAY, start=timezone.now()) for n in range(5000)
    )
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {Window._meta.db_table}")
    explain = f"EXPLAIN {limiter_sql._ADD_WITHIN_LIMITS}"
    parameters = ("50", '[["key:5", 2, 1, 0, 9, null]]', 1)
    reading = worker._thread.submit(lambda: database().rows(explain, *parameters))
    plan = [row[0] for row in reading.result(PATIENCE)]
    assert sum("Index Cond: " in line for line in plan) == 2, plan
    assert not any("Seq Scan" in line for line in plan), plan
    # Sorted before they are locked, as by all other writers.
    order = [word for line in plan for word in ("LockRows", "Sort Key") if word in line]
    assert order == ["LockRows", "Sort Key"], plan


@pytest.mark.postgresql
def test_calls_elsewhere_are_read_by_an_index(worker: Admission, team: Team) -> None:
    """The windows are locked meanwhile, and all workers wait for them."""
    Lease.objects.bulk_create(
        Lease(subject=f"key:{n // 8}", worker=f"{n % 8}", calls=1, renewed_at=timezone.now())
        for n in range(5000)
    )
    with connection.cursor() as cursor:
        cursor.execute(f"ANALYZE {Lease._meta.db_table}")
        cursor.execute(
            f"EXPLAIN {limiter_sql._ELSEWHERE_POSTGRESQL}",
            ['["key:5", "team:x"]', worker._limiter.worker],
        )
        plan = [row[0] for row in cursor.fetchall()]
    assert any("Index Cond: " in line for line in plan), plan
    assert not any("Seq Scan" in line for line in plan), plan
