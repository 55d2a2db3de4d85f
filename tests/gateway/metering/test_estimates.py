"""Estimates count text by its bytes, and media by their number."""

import base64
import json
import random

import pytest

from keyportal.gateway.metering.estimates import (
    BYTES_PER_TOKEN,
    MEDIA_TOKENS,
    MIN_MEDIA_BYTES,
    prompt_tokens,
    text_bytes,
    without_media,
)

pytestmark = pytest.mark.any_database

PICTURE = base64.b64encode(random.Random(1).randbytes(300_000)).decode()
PARTS: list[dict[str, object]] = [
    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
    {"type": "input_image", "image_url": f"data:image/jpeg;charset=x;base64,{PICTURE}"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
    {"type": "input_audio", "input_audio": {"data": PICTURE, "format": "wav"}},
    {"type": "file", "file": {"filename": "a.pdf", "file_data": PICTURE}},
    {"type": "image", "b64_json": PICTURE},
]


def body_of(*parts: object) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": parts}]}).encode()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: str(part["type"]))
@pytest.mark.parametrize("count", [1, 3])
def test_media_count_the_same_whatever_their_size(part: dict[str, object], count: int) -> None:
    estimate = prompt_tokens(body_of(*[part] * count))
    assert count * MEDIA_TOKENS < estimate < count * (MEDIA_TOKENS + 60) + 20


def test_base64_with_escaped_slashes_is_found() -> None:
    body = body_of(PARTS[2]).replace(b"/", b"\\/")
    assert prompt_tokens(body) < MEDIA_TOKENS + 60


@pytest.mark.parametrize("size", [100, MIN_MEDIA_BYTES, 1_000_000])
def test_text_counts_by_its_bytes(size: int) -> None:
    body = body_of({"type": "text", "text": "word " * (size // 5)})
    assert prompt_tokens(body) == len(body) // BYTES_PER_TOKEN


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": PICTURE},  # Attack: a text without spaces.
        {"type": "text", "text": "data:;base64, " + PICTURE},
        {"type": "text", "data": ("a" * 100 + " of words ") * 4000},
        {"type": "image", "source": {"data": "word " * 50_000}},
    ],
    ids=range(4),
)
def test_text_in_other_places_is_no_picture(part: dict[str, str]) -> None:
    body = body_of(part)
    assert prompt_tokens(body) >= (len(body) - 1000) // BYTES_PER_TOKEN


def test_base64_of_an_answer_is_left_out_in_whatever_parts_it_arrives() -> None:
    body = json.dumps({"content": "words", "images": [{"url": PICTURE}] * 2}).encode()
    for size in (16_384, 65_536, len(body)):
        parts = [without_media(body[at : at + size]) for at in range(0, len(body), size)]
        assert sum(count for _, count in parts) == 2
        assert sum(size for size, _ in parts) < 4 * MIN_MEDIA_BYTES


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b'{"choices": [{"message": {"content": "four", "reasoning_content": "th"}}]}', "fourth"),
        (b'{"content":[{"type":"text","text":"a\\"b"}]}', 'a\\"b'),
        (
            b'data: {"delta": "one"}\n\ndata: {"delta":" two"}\n\ndata: {"text": "one two"}',
            "one two",
        ),
        (b'{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{}"}}]}}]}', "{}"),
        (b'{"delta":{"type":"input_json_delta","partial_json":"{\\"a"}}', '{\\"a'),
        (b'{"id": "x", "model": "content"}', ""),
    ],
)
def test_only_text_is_counted_of_what_frames_it(answer: bytes, text: str) -> None:
    assert text_bytes(answer) == len(text)
