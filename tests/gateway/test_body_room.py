"""The room of large bodies comes back with the last server that is sent one, and not before."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pytest_django import Settings

from keyportal.catalog.snapshot import CatalogEntry, Target
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.endpoints import ENDPOINTS
from keyportal.gateway.model_calls import ModelCalls
from keyportal.gateway.relay.answer import Answer
from keyportal.gateway.relay.body_budget import Reservation
from keyportal.http.turns import Turns
from tests.support.asgi import Client, scope
from tests.support.calls import FakeAdmission, make_call

pytestmark = pytest.mark.any_database
VERDICT = Verdict(1, "key", 1, None, "acme", 1)
BODY = json.dumps({"model": "acme/m", "stream": True, "prompt": "x" * 300_000}).encode()
TIGHT, WIDE = 1_000_000, 2**30
"""With little memory, bodies wait on disk."""


class EarlyServer:
    """Begins its answer when it has read the first block of the request."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.began = asyncio.Event()
        self.rest: AsyncIterator[bytes] | None = None

    async def send(self, _target: object, _request: object, body: Any, *_: object) -> Answer:
        self.rest = aiter(body.chunks)
        await anext(self.rest)
        self.began.set()
        return Answer(200, [(b"content-type", b"text/event-stream")], cast("Any", self))

    async def next_chunk(self) -> bytes:
        await self.may_end.wait()
        return b""

    def close(self) -> None:
        self.rest = None


class Calls:
    """The calls of one key, to a server that answers early."""

    def __init__(self) -> None:
        self.server = EarlyServer()
        target = Target("f", "https://a.example.com/v1", cast("Any", None), "m", 1, 1.0, 1.0)
        entry = CatalogEntry("acme/m", 1, "acme", 0, (target,))
        admission = FakeAdmission()
        cast("Any", admission).catalog = SimpleNamespace(models={"acme/m": entry})
        self.serves = ModelCalls(
            cast("Any", admission), cast("Any", self.server), cast("Any", None), Turns()
        )
        self.memory, self.disk = self.serves.body_budget, self.serves.disk_budget
        self.others = Reservation(self.memory, "other", "others", lambda _: None)

    async def run(self) -> None:
        await self.others.grow(1000)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]
        request = scope(method="POST", headers=headers)
        request["keyportal.call"] = make_call(VERDICT, headers=headers)
        client, endpoint = Client(BODY), ENDPOINTS["/v1/chat/completions"]
        await self.serves.serve(endpoint, request, client.receive, client.send)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


@pytest.mark.parametrize("memory", [TIGHT, WIDE])
def test_body_is_counted_until_the_server_has_all_of_it(settings: Settings, memory: int) -> None:
    """Attack: a team's server begins endless answers to large bodies, and reads none of them."""
    settings.BODY_MEMORY, settings.BODY_DISK, settings.MAX_BODY_BYTES = memory, TIGHT, TIGHT

    async def test() -> None:
        calls = Calls()
        used = calls.disk if memory == TIGHT else calls.memory
        task = asyncio.create_task(calls.run())
        await calls.server.began.wait()
        await asyncio.sleep(0.01)
        assert used.held > 300_000
        assert calls.server.rest is not None
        async for _ in calls.server.rest:
            pass
        assert (calls.memory.held, calls.disk.held) == (1000, 0)
        calls.server.may_end.set()
        await task

    run(test)


@pytest.mark.parametrize("memory", [TIGHT, WIDE])
def test_room_comes_back_with_the_end_of_the_call(settings: Settings, memory: int) -> None:
    settings.BODY_MEMORY, settings.BODY_DISK, settings.MAX_BODY_BYTES = memory, TIGHT, TIGHT

    async def test() -> None:
        calls = Calls()
        task = asyncio.create_task(calls.run())
        await calls.server.began.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (calls.memory.held, calls.disk.held) == (1000, 0)

    run(test)


def test_call_that_ends_when_it_gets_its_room_gives_it_back(settings: Settings) -> None:
    settings.BODY_MEMORY = settings.BODY_DISK = settings.MAX_BODY_BYTES = TIGHT

    async def test() -> None:
        calls = Calls()
        other = Reservation(calls.disk, "key", "acme", lambda _: None)
        await other.grow(TIGHT)
        task = asyncio.create_task(calls.run())
        while not calls.disk.waiting:  # noqa: ASYNC110 - the budget has no event
            await asyncio.sleep(0)
        other.release()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (calls.memory.held, calls.disk.held) == (1000, 0)

    run(test)
