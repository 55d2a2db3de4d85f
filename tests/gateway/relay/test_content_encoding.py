"""Compressed bodies: decoded block by block, within the limit, and never beyond their end."""

import asyncio
import gzip
import random
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from keyportal.gateway.errors import BadRequest, BodyTooLarge
from keyportal.gateway.relay.content_encoding import BLOCK_BYTES, Decoder
from keyportal.gateway.relay.request_body import FREE_BYTES, read_body
from keyportal.http.turns import Turns
from tests.support.asgi import Client, scope, unlimited

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.any_database
MEBIBYTE = 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


CODINGS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (b"gzip", gzip.compress),
    (b"deflate", zlib.compress),
    (b"deflate", raw_deflate),
    (b"zstd", zstd.compress),
]
ALIASES = [(b"x-gzip", gzip.compress), (b"GZip", gzip.compress)]
each_coding = pytest.mark.parametrize(("coding", "compress"), CODINGS)


def read(coding: bytes, *parts: bytes) -> bytes:
    headers = [(b"content-type", b"application/json"), (b"content-encoding", coding)]
    request = scope(method="POST", headers=headers)
    return bytes(asyncio.run(read_body(request, Client(*parts).receive, unlimited, Turns())))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize(("coding", "compress"), [*CODINGS, *ALIASES])
@pytest.mark.parametrize("size", [1, 65_536])
def test_body_is_decoded_in_any_chunks(
    coding: bytes, compress: Callable[[bytes], bytes], size: int
) -> None:
    body = bytes(random.Random(7).choices(b'{"model": 123}', k=3000))
    assert read(coding, *pieces(compress(body), size), b"") == body


@each_coding
def test_body_of_many_blocks_is_decoded(coding: bytes, compress: Callable[[bytes], bytes]) -> None:
    body = random.Random(7).randbytes(BLOCK_BYTES) * 5
    assert read(coding, compress(body)) == body


@each_coding
def test_bomb_within_the_limit_is_refused(
    coding: bytes, compress: Callable[[bytes], bytes]
) -> None:
    """Attack: it costs its sender nothing, and a thousand at once use up the memory."""
    with pytest.raises(BadRequest, match="100th of its size"):
        read(coding, compress(b"x" * 15 * MEBIBYTE))
    small = b"x" * (FREE_BYTES - 1)
    assert read(coding, compress(small)) == small


@given(st.binary(max_size=300), st.integers(1, 40), st.sampled_from(CODINGS))
def test_any_body_is_decoded(
    body: bytes, size: int, coding: tuple[bytes, Callable[[bytes], bytes]]
) -> None:
    name, compress = coding
    assert read(name, *pieces(compress(body), size)) == body


@each_coding
def test_truncated_body_is_refused(coding: bytes, compress: Callable[[bytes], bytes]) -> None:
    compressed = compress(b'{"model": "m"}')
    for length in range(len(compressed)):
        with pytest.raises(BadRequest, match="is incomplete"):
            read(coding, compressed[:length])


@each_coding
def test_data_after_the_end_is_refused(coding: bytes, compress: Callable[[bytes], bytes]) -> None:
    """Whether it is garbage or another member: some servers would read it and others not."""
    compressed = compress(b'{"model": "m"}')
    for more in (b"x", b"\0", compressed):
        for parts in ([compressed + more], [compressed, more], [compressed, b"", more]):
            with pytest.raises(BadRequest, match="goes on after its end"):
                read(coding, *parts)


@each_coding
def test_data_in_another_encoding_is_refused(
    coding: bytes, compress: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(BadRequest, match="is not valid"):
        read(coding, b'{"model": "m"}' * 10)


@pytest.mark.parametrize(
    ("coding", "compress"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_wrong_checksum_is_refused(coding: bytes, compress: Callable[[bytes], bytes]) -> None:
    compressed = bytearray(compress(b'{"model": "m"}'))
    compressed[-5 if coding == b"gzip" else -1] ^= 1  # gzip ends with the length.
    with pytest.raises(BadRequest, match="is not valid"):
        read(coding, bytes(compressed))


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"zstd"])
@given(st.binary(max_size=60))
def test_random_bytes_raise_only_bad_request(coding: bytes, body: bytes) -> None:
    with suppress(BadRequest):
        read(coding, body)


@each_coding
def test_size_limit_applies_to_the_decoded_body(
    settings: Settings, coding: bytes, compress: Callable[[bytes], bytes]
) -> None:
    settings.MAX_BODY_BYTES = MEBIBYTE
    assert len(read(coding, compress(b"x" * MEBIBYTE))) == MEBIBYTE
    with pytest.raises(BodyTooLarge, match="1048576 bytes"):
        read(coding, compress(b"x" * (MEBIBYTE + 1)))


@each_coding
def test_decompression_bomb_needs_no_more_memory_than_the_limit(
    settings: Settings, coding: bytes, compress: Callable[[bytes], bytes]
) -> None:
    """Attack: some kilobytes become megabytes, or a gigabyte."""
    settings.MAX_BODY_BYTES = MEBIBYTE
    bomb = compress(b"x" * 8 * MEBIBYTE)
    assert len(bomb) < MEBIBYTE / 10
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            read(coding, bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEBIBYTE + 3 * BLOCK_BYTES


def test_other_tasks_run_between_two_blocks() -> None:
    async def turns_of_another_task() -> int:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        headers = [(b"content-encoding", b"gzip")]
        client = Client(gzip.compress(random.Random(7).randbytes(5 * BLOCK_BYTES)))
        await read_body(scope(method="POST", headers=headers), client.receive, unlimited, Turns())
        task.cancel()
        return turns

    assert asyncio.run(turns_of_another_task()) >= 5


def frame(window_log: int) -> bytes:
    """An empty Zstandard frame that asks for a window of 2 ** window_log bytes."""
    return b"\x28\xb5\x2f\xfd\x00" + bytes([(window_log - 10) << 3]) + b"\x01\x00\x00"


def test_zstd_with_a_large_window_is_refused() -> None:
    """Attack: each such body of 9 bytes would get gigabytes (RFC 9659)."""
    assert read(b"zstd", frame(23)) == b""
    for window_log in (24, 27, 31, 41):
        with pytest.raises(BadRequest, match="window of over 8 MiB"):
            read(b"zstd", frame(window_log))


def test_one_step_returns_at_most_one_block() -> None:
    decoder = Decoder(b"gzip")
    assert len(decoder.decode(gzip.compress(b"x" * 3 * BLOCK_BYTES))) == BLOCK_BYTES
    assert decoder.has_more
