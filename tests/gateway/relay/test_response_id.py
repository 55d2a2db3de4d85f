"""The id of an answer is read from the right place, and before a client can use it."""

import asyncio
import json
from collections.abc import Sequence

import pytest

from keyportal.gateway.relay.answer import BufferedBody
from keyportal.gateway.relay.response_id import (
    ID,
    MAX_BYTES,
    WatchedBody,
    id_of_answer,
    id_of_event,
)
from keyportal.usage.models import MAX_RESPONSE_ID

pytestmark = pytest.mark.any_database

FORGED = {"id": "resp_theirs", "response": {"id": "resp_theirs"}}


def encode(content: object) -> bytes:
    return json.dumps(content).encode()


def event(kind: str, **response: object) -> bytes:
    content = {"type": kind, "sequence_number": 0, "response": response}
    return f"event: {kind}\n".encode() + b"data: " + encode(content) + b"\n\n"


CREATED = event("response.created", id="resp_1", metadata=FORGED)
COMPLETED = event("response.completed", id="resp_2")


@pytest.mark.parametrize(
    "answer",
    [
        {"id": "resp_1", "object": "response"},
        {"created_at": 1, "metadata": FORGED, "id": "resp_1"},
        {"id": "resp_1", "output": [FORGED], "metadata": FORGED},
        {"text": '"id": "resp_theirs"', "id": "resp_1"},
    ],
)
def test_id_is_read_at_the_top_level_only(answer: object) -> None:
    """Attack: metadata that the answer repeats has the id of another team's answer."""
    assert id_of_answer(encode(answer)) == "resp_1"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"not JSON",
        b'{"id": 5}',
        b'{"id": "resp_1"',
        encode({"metadata": FORGED}),
        encode({"id": "../files"}),
        encode({"id": "a/b"}),
        encode({"id": ""}),
        encode({"id": "a" * (MAX_RESPONSE_ID + 1)}),
        encode({"id": "resp_1\n"}),
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_other_answers_have_no_id(answer: bytes) -> None:
    assert id_of_answer(answer) == ""


@pytest.mark.parametrize(
    "id_", ["resp_1", "ad5663da-63e6-86c6-e0be-ff15effa8357", "resp_bGl0ZWxsbQ==", "a" * 510 + "=="]
)
def test_ids_of_many_servers_are_valid(id_: str) -> None:
    assert ID.fullmatch(id_)
    assert len(id_) <= MAX_RESPONSE_ID
    assert id_of_answer(encode({"id": id_})) == id_


def test_long_answer_must_begin_with_its_id() -> None:
    rest = {"output": "x" * MAX_BYTES, **FORGED}
    assert id_of_answer(encode({"id": "resp_1"})[:-1] + b", " + encode(rest)[1:]) == "resp_1"
    assert id_of_answer(encode({"metadata": FORGED, "output": "x" * MAX_BYTES})) == ""


def test_id_is_read_in_an_event() -> None:
    assert id_of_event(CREATED) == "resp_1"
    assert id_of_event(CREATED.replace(b"\n", b"\r\n")) == "resp_1"
    assert id_of_event(b'data: {"response":\ndata: {"id": "resp_1"}}') == "resp_1"
    assert id_of_event(b"data: " + encode({"item": {"response": {"id": "resp_1"}}})) == ""
    assert id_of_event(b"data: " + encode({"response": {"metadata": FORGED}})) == ""
    for other in (b"", b"data: [DONE]", b"data: {", b": comment", b'data: {"response": 5}'):
        assert id_of_event(other) == ""


def read(chunks: Sequence[bytes], *, is_events: bool) -> list[bytes]:
    """What passes, with each id at the place where it was found."""
    passed: list[bytes] = []

    async def found(id_: str) -> None:
        passed.append(f"found {id_}".encode())

    async def read_all() -> None:
        body = WatchedBody(BufferedBody(chunks), found, is_events=is_events)
        while chunk := await body.next_chunk():
            passed.append(chunk)

    asyncio.run(read_all())
    return passed


def test_id_of_a_stream_is_found_before_its_first_event_passes() -> None:
    assert read([CREATED, COMPLETED], is_events=True) == [b"found resp_1", CREATED, COMPLETED]
    pieces = [CREATED[:40], CREATED[40:90], CREATED[90:] + COMPLETED]
    assert read(pieces, is_events=True) == [b"found resp_1", CREATED + COMPLETED]
    comment = b": hello\n\n"
    assert read([comment, CREATED], is_events=True) == [comment, b"found resp_1", CREATED]


def test_only_the_first_event_counts() -> None:
    """Attack: a later event has what the caller sent."""
    delta = b'data: {"type": "error"}\n\n'
    assert read([delta, COMPLETED], is_events=True) == [delta, COMPLETED]


def test_id_of_another_answer_is_found_before_its_end() -> None:
    """A client reads such an answer as a whole, and it ends after the last chunk."""
    answer = encode({"created_at": 1, "id": "resp_1"})
    assert read([answer[:9], answer[9:]], is_events=False) == [
        answer[:9],
        answer[9:],
        b"found resp_1",
    ]


def test_memory_for_a_long_answer_is_bounded() -> None:
    start, more = encode({"id": "resp_1"})[:-1] + b', "output": "', b"x" * (MAX_BYTES // 2)
    passed = read([start, more, more, more], is_events=False)
    assert passed == [start, more, b"found resp_1", more, more]
