"""A body that waits until it is sent, in memory or on disk."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from keyportal.gateway.errors import TooManyLargeBodies
from keyportal.gateway.relay import stored_body as module
from keyportal.gateway.relay.stored_body import BLOCK_BYTES, StoredBody, whole

pytestmark = pytest.mark.any_database
PLACES = [StoredBody.in_memory, StoredBody.on_disk, lambda: StoredBody.on_disk_beyond(10)]
each_place = pytest.mark.parametrize("create", PLACES, ids=["memory", "disk", "beyond"])
CONTENT = bytes(range(256)) * 1024


@each_place
def test_body_is_read_as_often_as_it_is_sent(create: Callable[[], StoredBody]) -> None:
    async def run() -> None:
        stored = create()
        stored.write(CONTENT)
        body = stored.between(b"<", b">")
        assert (body.length, body.is_repeatable) == (len(CONTENT) + 2, True)
        both = await asyncio.gather(whole(body), whole(body))
        assert [*both] == [b"<" + CONTENT + b">"] * 2
        stored.close()

    asyncio.run(run())


@each_place
def test_body_is_closed_after_its_last_reader(create: Callable[[], StoredBody]) -> None:
    """A server may answer before it has read all of the request."""

    async def run() -> None:
        stored = create()
        stored.write(CONTENT)
        blocks = aiter(stored.between(b"<").chunks)
        assert await anext(blocks) == b"<"
        stored.close()
        read = [block async for block in blocks]
        assert b"".join(read) == CONTENT
        assert max(map(len, read)) == BLOCK_BYTES
        with pytest.raises(ValueError, match="closed"):
            stored.write(b"x")

    asyncio.run(run())


def test_full_disk_refuses_the_body(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TooManyLargeBodies), Path("/dev/full").open("r+b", buffering=0) as full:
        StoredBody(full).write(b"x")
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    monkeypatch.setattr(module, "TemporaryFile", tempfile.TemporaryFile)
    with pytest.raises(TooManyLargeBodies):
        StoredBody.on_disk()
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "A request body can't be written to disk"
    ] * 2
