"""Usage is found wherever it stands at the top level of an answer, however the answer is cut."""

import json
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway.metering.field_reader import BLOCK_BYTES, MAX_VALUE_BYTES, FieldReader
from keyportal.gateway.metering.reported_usage import Answer, parse_answer

pytestmark = pytest.mark.any_database

USAGE = {"prompt_tokens": 11, "total_tokens": 11, "prompt_tokens_details": {"cached_tokens": 3}}
FORGED = {"usage": {"prompt_tokens": 90_000}, "service_tier": "forged"}


def read(body: bytes, size: int = 65_536, **more: bool) -> FieldReader:
    reader = FieldReader(**more)
    for start in range(0, len(body), size):
        reader.feed(body[start : start + size])
    return reader


def prompt(answer: Answer) -> int | None:
    return None if answer.usage is None else answer.usage.prompt()


texts = st.text(max_size=12) | st.sampled_from(['"usage"', "\\", '\\"', '"usage": {', "[{", "}]"])
names = texts | st.sampled_from(["usage", "data", "Usage"])
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4) | st.just(FORGED)
    ),
    max_leaves=5,
)
long_values = values | values.map(lambda value: [value] * 100)
fields = st.dictionaries(texts, long_values, max_size=3)


@given(fields, fields, st.lists(st.integers(0, 1_000_000), max_size=8), st.booleans())
def test_top_level_usage_is_read_for_any_cut_and_no_other(
    before: dict[str, Any], after: dict[str, Any], cuts: list[int], is_reported: bool
) -> None:
    usage = {"usage": USAGE, "service_tier": "flex"} if is_reported else {}
    body = json.dumps(before | usage | after, indent=len(cuts) % 3 or None).encode()
    edges = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    reader = FieldReader()
    for start, end in pairwise(edges):
        reader.feed(body[start:end])
    assert reader.is_over
    assert reader.answer() == (parse_answer(body) or Answer())
    assert prompt(reader.answer()) == (11 if is_reported else None)


@pytest.mark.parametrize("size", [1, 7, 1000, 262_144])
@pytest.mark.parametrize("place", ["first", "last"])
def test_usage_before_or_after_ten_thousand_numbers_is_read(size: int, place: str) -> None:
    data = {"data": [{"object": "embedding", "embedding": [0.25] * 5000}] * 2}
    fields = {"usage": USAGE} | data if place == "first" else data | {"usage": USAGE}
    assert prompt(read(json.dumps(fields).encode(), size).answer()) == 11


@pytest.mark.parametrize("name", ["response", "message"])
def test_usage_of_the_answer_in_an_event_is_read(name: str) -> None:
    for size, count in ((1, 100), (100, 1000), (65_536, 5000)):
        inner = {"output": [FORGED] * count, "metadata": FORGED, "text": 'x"' * 9, "usage": USAGE}
        event = {"type": "response.completed", name: inner, "more": [FORGED]}
        answer = read(json.dumps(event).encode(), size, is_event=True).answer()
        assert prompt(answer) == 11
        assert answer.type == "response.completed"
        # In any other answer, the field may be what a caller sent.
        assert prompt(read(json.dumps(event).encode(), size).answer()) is None


def test_response_in_a_response_is_not_read() -> None:
    body = json.dumps({"response": {"response": FORGED, "x": {"response": FORGED}}}).encode()
    assert read(body, is_event=True).answer() == Answer()


def test_beginning_of_an_answer_is_enough_if_usage_is_in_it() -> None:
    body = json.dumps({"usage": USAGE, "data": [1, 2, {"a": "b"}]}).encode()
    assert prompt(read(body[:-9]).answer()) == 11
    assert read(body[:50]).answer() == Answer()


def test_images_in_an_answer_are_counted() -> None:
    image = {"b64_json": "A" * 100_000, "revised_prompt": '{"usage": [{'}
    body = json.dumps({"created": 1, "data": [image] * 3, "usage": USAGE}).encode()
    reader = read(body, 4096, counts_items=True)
    assert reader.item_count == 3
    assert prompt(reader.answer()) == 11


@pytest.mark.parametrize("body", [b"[]", b'"usage"', b"\xff\xfb\x90", b"1", b"WEBVTT\n\n", b""])
def test_other_texts_than_objects_are_not_read(body: bytes) -> None:
    reader = read(body * 1000, 100)
    assert reader.answer() == Answer()
    assert reader.is_over or not body


# Attack: answers that repeat what a caller sent would keep the gateway busy, or fill its memory.
HOSTILE = [
    b'{"x":[' + b'{"usage":{"prompt_tokens":9}},' * 60_000,
    b'{"a":' * 400_000,
    b'{"x":[' + b"[" * 2_000_000,
    b'{"x":["' + b'\\"usage\\":{' * 160_000,
    b'{"x":["' + b"\\" * 2_000_001,
    b'{"usage":' + b'{"a":' * 400_000,
    b'{"usage":{"a":"' + b"x" * 2_000_000,
    b'{"usage"' + b" " * 2_000_000,
    b"{" + b'"a":1,' * 330_000,
    b'{"' + b"x" * 2_000_000,
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_two_hostile_megabytes_take_little_time_and_memory(body: bytes) -> None:
    began = time.process_time()
    reader = FieldReader(is_event=True)
    for start in range(0, len(body), BLOCK_BYTES):
        reader.feed(body[start : start + BLOCK_BYTES])
        assert len(reader._rest) <= MAX_VALUE_BYTES + BLOCK_BYTES
    assert time.process_time() - began < 20  # A tenth of a second, on an idle machine.
    assert prompt(reader.answer()) is None
