"""An event stream is passed on in complete events, byte for byte, in any network chunks."""

import asyncio
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway.relay import sse as module
from keyportal.gateway.relay.answer import BufferedBody
from keyportal.gateway.relay.sse import (
    COMMENT,
    MAX_EVENT_BYTES,
    CompleteEvents,
    KeepAlive,
    is_event_stream,
)
from keyportal.http.types import Message

pytestmark = pytest.mark.any_database

EVENT = b'data: {"x": 1}\n\n'


def passed_on(chunks: Sequence[bytes]) -> list[bytes]:
    async def gather() -> list[bytes]:
        events, pieces = CompleteEvents(BufferedBody([chunk for chunk in chunks if chunk])), []
        while piece := await events.next_chunk():
            pieces.append(piece)
        return pieces

    return asyncio.run(gather())


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


lines = st.binary(max_size=12).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b""))
streams = st.builds(
    lambda end, events, rest: (
        b"".join(b"".join(line + end for line in event) + end for event in events) + rest
    ),
    st.sampled_from([b"\n", b"\r\n", b"\r"]),
    st.lists(st.lists(lines.filter(bool), min_size=1, max_size=3), max_size=6),
    lines,
)


@given(streams, st.lists(st.integers(0, 10_000), max_size=12))
def test_bytes_are_unchanged_and_cut_between_events(data: bytes, places: list[int]) -> None:
    pieces = passed_on(cut(data, places))
    assert b"".join(pieces) == data
    assert all(pieces)
    for piece in pieces[:-1]:
        assert piece.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))


@given(st.lists(st.binary(max_size=20)))
def test_other_bytes_are_relayed_too(chunks: list[bytes]) -> None:
    assert b"".join(passed_on(chunks)) == b"".join(chunks)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_complete_events_pass_at_once(end: bytes) -> None:
    chunks = [b"data: 1" + end, b"data: 2" + end + b"data:", b" 3", end]
    assert passed_on(chunks) == [
        b"data: 1" + end,
        b"data: 2" + end,
        b"data: 3" + end,
    ]


@pytest.mark.parametrize("at", range(1, 5))
def test_end_split_over_two_chunks_is_found(at: int) -> None:
    data = b"data: 1\r\n\r\n"
    assert passed_on([data[:-at], data[-at:]])[-1].endswith(b"\r\n\r\n")
    assert b"".join(passed_on([data[:-at], data[-at:]])) == data


def test_incomplete_last_event_passes() -> None:
    assert passed_on([EVENT, b"data: half"]) == [EVENT, b"data: half"]


def test_empty_stream_stays_empty() -> None:
    assert passed_on([]) == passed_on([b"", b""]) == []


def test_event_of_any_size_passes_with_a_small_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_EVENT_BYTES", 100)
    pieces = passed_on([b"x" * 30] * 20 + [b"\n\n" + EVENT])
    assert b"".join(pieces) == b"x" * 600 + b"\n\n" + EVENT
    assert max(map(len, pieces)) <= 130


def test_buffer_is_limited_to_a_megabyte() -> None:
    event = b"data: " + b"x" * (MAX_EVENT_BYTES - 8) + b"\n\n"
    chunks = cut(event, list(range(0, MAX_EVENT_BYTES, 65536)))
    assert passed_on(chunks) == [event]


@pytest.mark.parametrize(
    ("media_type", "is_stream"),
    [
        (b"text/event-stream", True),
        (b"text/event-stream; charset=utf-8", True),
        (b"Text/Event-Stream", True),
        (b"application/json", False),
        (b"text/plain; x=text/event-stream", False),
    ],
)
def test_event_streams_are_recognized(media_type: bytes, is_stream: bool) -> None:
    assert is_event_stream([(b"x-other", b"1"), (b"content-type", media_type)]) is is_stream


class Caller:
    """Records what is sent to it, and may have stopped reading."""

    def __init__(self, *, is_reading: bool = True) -> None:
        self.is_reading = is_reading
        self.messages: list[Message] = []

    async def send(self, message: Message) -> None:
        self.messages.append(message)

    def is_all_sent(self) -> bool:
        return self.is_reading


def keep_alive(caller: Caller, *chunks: bytes) -> KeepAlive:
    """After all but the last of these chunks were read."""
    events = CompleteEvents(BufferedBody(chunks))
    for _ in chunks[1:]:
        asyncio.run(events.next_chunk())
    return KeepAlive(events, caller.send, caller.is_all_sent)


def test_comment_is_sent_after_silence_and_once() -> None:
    caller = Caller()
    silent = keep_alive(caller)
    asyncio.run(silent.send_if_silent(silent.sent_at))
    assert caller.messages == []
    began = silent.sent_at
    for _ in range(3):
        asyncio.run(silent.send_if_silent(began + 0.000001))
    assert caller.messages == [{"type": "http.response.body", "body": COMMENT, "more_body": True}]
    assert silent.sent_at > began


def test_comment_is_not_an_event() -> None:
    """By the specification, a line that begins with a colon is ignored, and so is an empty line."""
    assert COMMENT.startswith(b":")
    assert COMMENT.endswith(b"\n\n")
    assert COMMENT.count(b"\n") == 2


def test_caller_that_does_not_read_gets_no_comments() -> None:
    """Attack: many callers read nothing, and comments pile up in memory."""
    caller = Caller(is_reading=False)
    silent = keep_alive(caller)
    asyncio.run(silent.send_if_silent(silent.sent_at + 1))
    assert caller.messages == []
    caller.is_reading = True
    asyncio.run(silent.send_if_silent(silent.sent_at + 1))
    assert len(caller.messages) == 1


def test_no_comment_is_inside_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is too large is passed on before its end."""
    monkeypatch.setattr(module, "MAX_EVENT_BYTES", 100)
    caller = Caller()
    inside = keep_alive(caller, b"data: " + b"x" * 200, b"")
    asyncio.run(inside.send_if_silent(inside.sent_at + 1))
    assert caller.messages == []
    after = keep_alive(caller, b"data: " + b"x" * 200, b"x\n\n", b"")
    asyncio.run(after.send_if_silent(after.sent_at + 1))
    assert len(caller.messages) == 1
