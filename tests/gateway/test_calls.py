"""Calls in flight: ended from outside within their task, which goes on to serve its connection."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import pytest
from pytest_django import Settings

from keyportal.gateway import calls as module
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.errors import (
    ClientGone,
    DatabaseUnavailable,
    EndedByAdmin,
    GatewayError,
    InvalidKey,
    Overloaded,
    ShuttingDown,
)
from tests.support.calls import call_of

VERDICT = Verdict(1, "7QmX2aPd", 1)


def new_call(digest: bytes) -> Call:
    return call_of(VERDICT, digest=digest)


class Judge:
    """An admission that refuses some digests, or has no database."""

    def __init__(self, refused: Iterable[bytes] = (), failure: GatewayError | None = None) -> None:
        self.refused = set(refused)
        self.failure = failure
        self.asked: list[bytes] = []
        self.was_asked_thrice = asyncio.Event()

    async def judge(self, digest: bytes) -> Verdict | None:
        self.asked.append(digest)
        if len(self.asked) == 3:
            self.was_asked_thrice.set()
        await asyncio.sleep(0)
        if self.failure is not None:
            raise type(self.failure)
        return None if digest in self.refused else VERDICT


async def call(
    flight: ActiveCalls, begun: Callable[[Call], object] = lambda _: None, digest: bytes = b"1"
) -> None:
    """A call that waits until it is ended."""
    with flight.of(new_call(digest)) as running:
        begun(running)
        await asyncio.Event().wait()


def run(work: Awaitable[object]) -> None:
    asyncio.run(asyncio.wait_for(work, 10))


async def rejudge(flight: ActiveCalls, judge: Judge) -> None:
    await flight._rejudge(cast("Admission", judge))


def test_ending_raises_the_reason_inside_the_call() -> None:
    async def end() -> None:
        flight = ActiveCalls()
        loop = asyncio.get_running_loop()
        with pytest.raises(ShuttingDown):
            await call(flight, lambda running: loop.call_soon(running.end, ShuttingDown()))
        assert len(flight) == 0

    run(end())


def test_the_task_serves_the_next_request_as_if_nothing_had_been() -> None:
    async def connection() -> None:
        flight = ActiveCalls()
        loop = asyncio.get_running_loop()
        for _ in range(3):
            with pytest.raises(InvalidKey):
                await call(flight, lambda running: loop.call_soon(running.end, InvalidKey()))
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            with flight.of(new_call(b"2")):
                async with asyncio.timeout(30):  # Looks at the same count of cancellations.
                    await asyncio.sleep(0.001)

    run(connection())


def test_the_first_reason_stands() -> None:
    async def end() -> None:
        loop = asyncio.get_running_loop()

        def end_twice(running: Call) -> None:
            loop.call_soon(running.end, InvalidKey())
            loop.call_soon(running.end, ShuttingDown())

        with pytest.raises(InvalidKey):
            await call(ActiveCalls(), end_twice)
        await asyncio.sleep(0.001)

    run(end())


def test_ending_a_call_that_is_over_does_not_harm_the_next() -> None:
    async def connection() -> None:
        flight = ActiveCalls()
        with flight.of(new_call(b"1")) as first:
            pass
        with flight.of(new_call(b"1")):
            first.end(ClientGone())
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)
        assert first.ended_by is None

    run(connection())


def test_a_call_that_fails_by_itself_is_over_too() -> None:
    async def connection() -> None:
        flight = ActiveCalls()
        running = new_call(b"1")
        with pytest.raises(ZeroDivisionError), flight.of(running):
            raise ZeroDivisionError
        running.end(ClientGone())
        await asyncio.sleep(0.001)
        assert len(flight) == 0

    run(connection())


def test_cancelling_the_task_from_elsewhere_stays_a_cancellation() -> None:
    async def cancel() -> None:
        flight = ActiveCalls()
        begun = asyncio.Event()
        task = asyncio.ensure_future(call(flight, lambda _: begun.set()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(flight) == 0

    run(cancel())


def test_a_timeout_inside_the_call_is_not_taken_for_its_end() -> None:
    async def end() -> None:
        loop = asyncio.get_running_loop()
        with ActiveCalls().of(new_call(b"1")) as running:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.001)
            loop.call_soon(running.end, InvalidKey())
            await asyncio.wait_for(asyncio.Event().wait(), 30)

    with pytest.raises(InvalidKey):
        run(end())


def test_more_calls_than_may_be_in_flight_are_refused(settings: Settings) -> None:
    settings.MAX_CALLS = 2

    async def crowd() -> None:
        flight = ActiveCalls()
        two = [asyncio.ensure_future(call(flight)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await call(flight)
        assert len(flight) == 2
        flight.end_all(ShuttingDown)
        await asyncio.gather(*two, return_exceptions=True)
        with flight.of(new_call(b"1")):
            pass

    run(crowd())


def test_at_the_end_every_call_is_told() -> None:
    async def crowd() -> None:
        flight = ActiveCalls()
        three = [asyncio.ensure_future(call(flight)) for _ in range(3)]
        await asyncio.sleep(0)
        flight.end_all(ShuttingDown)
        reasons = await asyncio.gather(*three, return_exceptions=True)
        assert [type(reason) for reason in reasons] == [ShuttingDown] * 3
        assert len({id(reason) for reason in reasons}) == 3

    run(crowd())


def test_a_call_is_not_ended_by_another_that_has_the_same_request_id() -> None:
    """Callers choose that id; whoever copied another's could have the other's calls ended."""

    async def end_one() -> None:
        flight = ActiveCalls()
        calls: list[Call] = []
        tasks = [asyncio.create_task(call(flight, calls.append)) for _ in range(2)]
        await asyncio.sleep(0)
        assert calls[0].request_id == calls[1].request_id
        team = VERDICT.team_slug
        wished = {(team, calls[0].id), (team, calls[1].request_id)}
        flight.end_these(wished, EndedByAdmin)
        with pytest.raises(EndedByAdmin):
            await tasks[0]
        assert len(flight) == 1
        tasks[1].cancel()

    run(end_one())


def test_judging_again_ends_only_the_calls_of_refused_keys() -> None:
    async def crowd() -> None:
        flight = ActiveCalls()
        calls = [
            asyncio.ensure_future(call(flight, digest=digest)) for digest in (b"1", b"2", b"1")
        ]
        await asyncio.sleep(0)
        judge = Judge(refused=[b"1"])
        await rejudge(flight, judge)
        assert sorted(judge.asked) == [b"1", b"2"]  # A key is asked for once.
        await asyncio.sleep(0.001)
        assert [task.done() for task in calls] == [True, False, True]
        assert isinstance(calls[0].exception(), InvalidKey)
        flight.end_all(ShuttingDown)
        await asyncio.gather(*calls, return_exceptions=True)

    run(crowd())


def test_many_keys_are_judged_again_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REJUDGE_AT_ONCE", 2)

    async def crowd() -> None:
        flight = ActiveCalls()
        digests = [str(number).encode() for number in range(5)]
        calls = [asyncio.ensure_future(call(flight, digest=digest)) for digest in digests]
        await asyncio.sleep(0)
        judge = Judge(refused=digests)
        await rejudge(flight, judge)
        assert sorted(judge.asked) == digests
        reasons = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(reason) for reason in reasons} == {InvalidKey}

    run(crowd())


@pytest.mark.parametrize("failure", [DatabaseUnavailable(), Overloaded()])
def test_without_a_database_calls_go_on_until_there_is_one_again(
    failure: GatewayError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "REJUDGE_SECONDS", 0.005)

    async def outage() -> None:
        flight = ActiveCalls()
        judge = Judge(refused=[b"1"], failure=failure)
        running = asyncio.ensure_future(call(flight))
        again = asyncio.ensure_future(flight.rejudge_forever(cast("Admission", judge)))
        await judge.was_asked_thrice.wait()
        assert not running.done()
        judge.failure = None
        with pytest.raises(InvalidKey):
            await running
        again.cancel()

    run(outage())
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
