"""The running calls of a worker that was killed are counted once, whoever counts them."""

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connections
from django.db.models import F, Sum

from keyportal.gateway.calls import Call
from keyportal.gateway.metering import running_calls
from keyportal.gateway.metering.lost_calls import count_lost_calls
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.writer import Writer
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from keyportal.usage.models import Call as CallRow
from keyportal.usage.models import RunningCalls, UsageDay
from tests.support.calls import make_call, make_verdict

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "meter"])
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def call(alice: User, issue: Issue) -> Call:
    """A stream of the killed worker that began two minutes ago."""
    verdict = make_verdict(issue(alice)[0])

    async def make() -> Call:
        call = make_call(verdict)
        call.began -= 120
        call.model, call.endpoint = "a/b", "/chat/completions"
        call.tokens.prompt, call.tokens.completion = 10, 70
        return call

    return asyncio.run(make())


@pytest.fixture
def workers() -> Iterator[list[Writer]]:
    """The writers of two workers, each with a connection of its own."""
    writers = [Writer(), Writer()]
    yield writers
    for writer in writers:
        writer.close()
        writer._thread.shutdown()


def report(call: Call) -> None:
    """Write the call as a worker does that is killed then, 90 seconds ago."""
    call.began += 90
    running_calls.write("killed", running_calls._calls_by_team([call]), [])
    call.began -= 90
    RunningCalls.objects.update(written_at=F("written_at") - timedelta(seconds=90))


def end(call: Call, writer: Writer, times: int = 1) -> None:
    """The worker writes that the call has ended, or several like it."""
    meter = Meter("killed", writer)
    call.status = 200
    call.tokens.completion = 100
    for _ in range(times):
        meter.record_call(call)
        asyncio.run(meter.flush())


def look_twice() -> None:
    count_lost_calls(count_lost_calls(()))


def counted() -> tuple[int, int, int]:
    """Requests and tokens in the sums, and rows in the call log."""
    sums = UsageDay.objects.aggregate(
        requests=Sum("requests", default=0),
        tokens=Sum(F("prompt_tokens") + F("completion_tokens"), default=0),
    )
    return sums["requests"], sums["tokens"], CallRow.objects.count()


def test_what_was_used_until_then_is_counted(call: Call) -> None:
    report(call)
    look_twice()
    look_twice()
    assert counted() == (1, 80, 1)
    assert not RunningCalls.objects.exists()
    row = CallRow.objects.get()
    assert (row.prompt_tokens, row.completion_tokens, row.is_estimated) == (10, 70, True)
    assert (row.status, row.error_code, row.model) == (500, "process_lost", "a/b")
    assert row.owner_id == call.verdict.owner_id


def test_no_worker_counts_at_its_first_look(call: Call) -> None:
    """After an outage of the database, the rows of workers that live are old for a second too."""
    report(call)
    suspects = count_lost_calls(())
    running_calls.write("killed", running_calls._calls_by_team([call]), [])
    assert count_lost_calls(suspects) == set()
    assert counted() == (0, 0, 0)


def test_call_that_ended_before_the_kill_is_not_counted_again(
    call: Call, workers: list[Writer]
) -> None:
    """Its end was written, and its row of running calls not yet replaced."""
    report(call)
    end(call, workers[0])
    look_twice()
    assert counted() == (1, 110, 1)


def test_clock_of_the_killed_host_may_be_wrong(
    call: Call, workers: list[Writer], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = time.time
    with monkeypatch.context() as patch:
        patch.setattr(time, "time", lambda: right() + 7200)
        report(call)
        end(call, workers[0])
    look_twice()
    assert counted() == (1, 110, 1)
    assert abs(CallRow.objects.get().started_at.timestamp() - (right() - 120)) < 60


def test_long_calls_with_the_same_request_id_are_all_counted(
    call: Call, workers: list[Writer]
) -> None:
    """Attack: a caller chooses the id, so that one call hides the others."""
    end(call, workers[0], times=3)
    assert CallRow.objects.count() == 3


def test_worker_that_comes_back_does_not_count_again(call: Call, workers: list[Writer]) -> None:
    """It was frozen, or cut off from the database, for minutes."""
    report(call)
    look_twice()
    end(call, workers[0])
    assert counted() == (1, 80, 1)


def test_two_workers_that_look_at_once_and_one_that_comes_back(
    call: Call, workers: list[Writer]
) -> None:
    report(call)
    suspects = count_lost_calls(())

    def look() -> None:
        try:
            count_lost_calls(suspects)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as threads:
        jobs = [
            threads.submit(look),
            threads.submit(end, call, workers[0]),
            threads.submit(look),
        ]
        for job in jobs:
            job.result(60)
    requests, tokens, rows = counted()
    assert (requests, rows) == (1, 1)
    assert tokens in {80, 110}
