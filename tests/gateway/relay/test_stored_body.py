"""A body that waits until it is sent, in memory or on disk."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from keyportal.gateway.errors import DiskFull
from keyportal.gateway.relay import stored_body as module
from keyportal.gateway.relay.stored_body import BLOCK_BYTES, DiskBody, MemoryBody, whole
from keyportal.http.turns import Turns

pytestmark = pytest.mark.any_database
CONTENT = bytes(range(256)) * 1024
Create = Callable[[], Awaitable[MemoryBody | DiskBody]]


async def in_memory() -> MemoryBody:
    return MemoryBody([CONTENT[:10], memoryview(CONTENT)[10:]], Turns())


async def on_disk() -> DiskBody:
    return await (await in_memory()).to_disk()


async def spooled() -> DiskBody:
    stored = DiskBody(Turns(), 10)
    stored.write(CONTENT)
    return stored


each_place = pytest.mark.parametrize("create", [in_memory, on_disk, spooled])


@each_place
def test_body_is_read_as_often_as_it_is_sent(create: Create) -> None:
    async def run() -> None:
        stored = await create()
        body = stored.between(b"<", b">")
        assert (body.length, body.is_repeatable) == (len(CONTENT) + 2, True)
        both = await asyncio.gather(whole(body), whole(body))
        assert [*both] == [b"<" + CONTENT + b">"] * 2
        stored.close()

    asyncio.run(run())


@each_place
def test_server_that_answers_early_still_gets_the_whole_body(create: Create) -> None:
    async def run() -> None:
        stored = await create()
        blocks = aiter(stored.between(b"<", b">").chunks)
        assert await anext(blocks) == b"<"
        stored.close()
        read = [block async for block in blocks]
        assert b"".join(read) == CONTENT + b">"
        assert max(map(len, read)) == BLOCK_BYTES
        if isinstance(stored, DiskBody):
            with pytest.raises(ValueError, match="closed"):
                stored.write(b"x")

    asyncio.run(run())


def test_full_disk_is_found_before_the_body_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by a body so small that it is written only at its end."""
    with Path("/dev/full").open("r+b") as full:
        monkeypatch.setattr(module, "TemporaryFile", lambda: full)

        async def write() -> None:
            await MemoryBody([b"small"], Turns()).to_disk()

        with pytest.raises(DiskFull):
            asyncio.run(write())
        assert full.closed


def test_full_disk_refuses_the_body(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(module, "TemporaryFile", lambda: full)
        with pytest.raises(DiskFull):
            asyncio.run(on_disk())
        assert full.closed
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.setattr(module, "TemporaryFile", tempfile.TemporaryFile)
    with pytest.raises(DiskFull):
        asyncio.run(on_disk())
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "A request body can't be written to disk"
    ] * 2
