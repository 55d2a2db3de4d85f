"""Active calls: they can be ended from outside; their task then serves the next request."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import cast

import pytest
from pytest_django import Settings

from keyportal.gateway import calls as module
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.errors import (
    ClientDisconnected,
    DatabaseUnavailable,
    EndedByAdmin,
    GatewayError,
    InvalidKey,
    Overloaded,
    ShuttingDown,
    SlowBody,
)
from keyportal.gateway.relay.sse import KeepAlive
from tests.support.calls import make_call

VERDICT = Verdict(1, "7QmX2aPd", 1)


def new_call(digest: bytes) -> Call:
    return make_call(VERDICT, digest=digest)


class Judge:
    """An admission that refuses some digests, or has no database."""

    def __init__(self, refused: Iterable[bytes] = (), failure: GatewayError | None = None) -> None:
        self.refused = set(refused)
        self.failure = failure
        self.digests: list[bytes] = []
        self.was_called_three_times = asyncio.Event()

    async def judge(self, digest: bytes) -> Verdict | None:
        self.digests.append(digest)
        if len(self.digests) == 3:
            self.was_called_three_times.set()
        await asyncio.sleep(0)
        if self.failure is not None:
            raise type(self.failure)
        return None if digest in self.refused else VERDICT


async def call(
    active_calls: ActiveCalls,
    on_start: Callable[[Call], object] = lambda _: None,
    digest: bytes = b"1",
) -> None:
    """A call that waits until it is ended."""
    with active_calls.track(new_call(digest)) as running:
        on_start(running)
        await asyncio.Event().wait()


def run(work: Awaitable[object]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def recheck(active_calls: ActiveCalls, judge: Judge) -> None:
    await active_calls._recheck(cast("Admission", judge))


def test_a_call_whose_client_sends_nothing_of_its_body_is_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attack: a client holds a call, and the file of its upload, by sending nothing."""
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.01)

    def expect_body(running: Call) -> None:
        running.body_deadline = time.monotonic() + 0.1

    async def wait() -> None:
        active_calls = ActiveCalls()
        recheck = asyncio.create_task(active_calls.recheck_forever(cast("Admission", Judge())))
        with pytest.raises(SlowBody):
            await call(active_calls, expect_body)
        recheck.cancel()

    run(wait())


def test_ending_raises_the_reason_inside_the_call() -> None:
    async def end() -> None:
        active_calls = ActiveCalls()
        loop = asyncio.get_running_loop()
        with pytest.raises(ShuttingDown):
            await call(active_calls, lambda running: loop.call_soon(running.end, ShuttingDown()))
        assert len(active_calls) == 0

    run(end())


def test_task_serves_the_next_request_after_an_ended_call() -> None:
    async def connection() -> None:
        active_calls = ActiveCalls()
        loop = asyncio.get_running_loop()
        for _ in range(3):
            with pytest.raises(InvalidKey):
                await call(active_calls, lambda running: loop.call_soon(running.end, InvalidKey()))
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            with active_calls.track(new_call(b"2")):
                async with asyncio.timeout(60):  # It uses the same count of cancellations.
                    await asyncio.sleep(0.001)

    run(connection())


def test_first_reason_is_raised() -> None:
    async def end() -> None:
        loop = asyncio.get_running_loop()

        def end_twice(running: Call) -> None:
            loop.call_soon(running.end, InvalidKey())
            loop.call_soon(running.end, ShuttingDown())

        with pytest.raises(InvalidKey):
            await call(ActiveCalls(), end_twice)
        await asyncio.sleep(0.001)

    run(end())


def test_ending_a_finished_call_does_not_end_the_next() -> None:
    async def connection() -> None:
        active_calls = ActiveCalls()
        with active_calls.track(new_call(b"1")) as first:
            pass
        with active_calls.track(new_call(b"1")):
            first.end(ClientDisconnected())
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.001)
        assert first.ended_by is None

    run(connection())


def test_failed_call_is_finished_too() -> None:
    async def connection() -> None:
        active_calls = ActiveCalls()
        running = new_call(b"1")
        with pytest.raises(ZeroDivisionError), active_calls.track(running):
            raise ZeroDivisionError
        running.end(ClientDisconnected())
        await asyncio.sleep(0.001)
        assert len(active_calls) == 0

    run(connection())


def test_cancelling_the_task_from_elsewhere_stays_a_cancellation() -> None:
    async def cancel() -> None:
        active_calls = ActiveCalls()
        started = asyncio.Event()
        task = asyncio.ensure_future(call(active_calls, lambda _: started.set()))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(active_calls) == 0

    run(cancel())


def test_timeout_inside_a_call_does_not_end_it() -> None:
    async def end() -> None:
        loop = asyncio.get_running_loop()
        with ActiveCalls().track(new_call(b"1")) as running:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.Event().wait(), 0.001)
            loop.call_soon(running.end, InvalidKey())
            await asyncio.wait_for(asyncio.Event().wait(), 60)

    with pytest.raises(InvalidKey):
        run(end())


def test_too_many_active_calls_are_refused(settings: Settings) -> None:
    settings.MAX_RUNNING_CALLS = 2

    async def crowd() -> None:
        active_calls = ActiveCalls()
        two = [asyncio.ensure_future(call(active_calls)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await call(active_calls)
        assert len(active_calls) == 2
        active_calls.end_all(ShuttingDown)
        await asyncio.gather(*two, return_exceptions=True)
        with active_calls.track(new_call(b"1")):
            pass

    run(crowd())


def test_end_all_ends_every_call_with_its_own_error() -> None:
    async def crowd() -> None:
        active_calls = ActiveCalls()
        three = [asyncio.ensure_future(call(active_calls)) for _ in range(3)]
        await asyncio.sleep(0)
        active_calls.end_all(ShuttingDown)
        reasons = await asyncio.gather(*three, return_exceptions=True)
        assert [type(reason) for reason in reasons] == [ShuttingDown] * 3
        assert len({id(reason) for reason in reasons}) == 3

    run(crowd())


def test_a_call_is_not_ended_by_another_that_has_the_same_request_id() -> None:
    """Attack: a client copies the request id of another client's call, to have that call ended."""

    async def end_one() -> None:
        active_calls = ActiveCalls()
        calls: list[Call] = []
        tasks = [asyncio.create_task(call(active_calls, calls.append)) for _ in range(2)]
        await asyncio.sleep(0)
        assert calls[0].request_id == calls[1].request_id
        team = VERDICT.team_slug
        ids = {(team, calls[0].id), (team, calls[1].request_id)}
        active_calls.end_selected(ids, EndedByAdmin)
        with pytest.raises(EndedByAdmin):
            await tasks[0]
        assert len(active_calls) == 1
        tasks[1].cancel()

    run(end_one())


def test_recheck_ends_only_the_calls_of_refused_keys() -> None:
    async def crowd() -> None:
        active_calls = ActiveCalls()
        calls = [
            asyncio.ensure_future(call(active_calls, digest=digest))
            for digest in (b"1", b"2", b"1")
        ]
        await asyncio.sleep(0)
        judge = Judge(refused=[b"1"])
        await recheck(active_calls, judge)
        assert sorted(judge.digests) == [b"1", b"2"]  # Each key is checked once.
        await asyncio.sleep(0.001)
        assert [task.done() for task in calls] == [True, False, True]
        assert isinstance(calls[0].exception(), InvalidKey)
        active_calls.end_all(ShuttingDown)
        await asyncio.gather(*calls, return_exceptions=True)

    run(crowd())


def test_many_keys_are_rechecked_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECHECK_BATCH", 2)

    async def crowd() -> None:
        active_calls = ActiveCalls()
        digests = [str(number).encode() for number in range(5)]
        calls = [asyncio.ensure_future(call(active_calls, digest=digest)) for digest in digests]
        await asyncio.sleep(0)
        judge = Judge(refused=digests)
        await recheck(active_calls, judge)
        assert sorted(judge.digests) == digests
        reasons = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(reason) for reason in reasons} == {InvalidKey}

    run(crowd())


@pytest.mark.parametrize("failure", [DatabaseUnavailable(), Overloaded()])
def test_calls_go_on_during_a_database_outage(
    failure: GatewayError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RECHECK_SECONDS", 0.005)

    async def outage() -> None:
        active_calls = ActiveCalls()
        judge = Judge(refused=[b"1"], failure=failure)
        running = asyncio.ensure_future(call(active_calls))
        again = asyncio.ensure_future(active_calls.recheck_forever(cast("Admission", judge)))
        await judge.was_called_three_times.wait()
        assert not running.done()
        judge.failure = None
        with pytest.raises(InvalidKey):
            await running
        again.cancel()

    run(outage())
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


class BrokenStream:
    async def send_if_silent(self, _before: float) -> None:
        raise RuntimeError


class SilentStream:
    def __init__(self) -> None:
        self.was_asked = asyncio.Event()

    async def send_if_silent(self, before: float) -> None:
        assert before < time.monotonic() - 10
        self.was_asked.set()


def test_each_stream_is_asked_for_a_comment_whatever_happens_to_another(
    monkeypatch: pytest.MonkeyPatch, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "KEEP_ALIVE_SWEEP_SECONDS", 0.001)
    settings.STREAM_KEEPALIVE_SECONDS = 15
    silent = SilentStream()

    async def run() -> None:
        active_calls = ActiveCalls()
        sweeping = asyncio.create_task(active_calls.keep_alive_forever())
        streams = (BrokenStream(), None, silent)
        calls = [new_call(bytes([number])) for number in range(len(streams))]
        for one, stream in zip(calls, streams, strict=True):
            one.keep_alive = cast("KeepAlive | None", stream)
        with contextlib.ExitStack() as stack:
            for one in calls:
                stack.enter_context(active_calls.track(one))
            for _ in range(3):
                silent.was_asked.clear()
                await asyncio.wait_for(silent.was_asked.wait(), 60)
        sweeping.cancel()

    asyncio.run(run())
    assert caplog.text.count("could not be sent") == 1


def test_no_stream_is_asked_if_comments_are_off(settings: Settings) -> None:
    settings.STREAM_KEEPALIVE_SECONDS = 0
    asyncio.run(ActiveCalls().keep_alive_forever())
