"""The tokens of a call: read in every shape that servers report, or estimated."""

import asyncio
import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyportal.gateway.metering.estimates import BYTES_PER_TOKEN
from keyportal.gateway.metering.token_counter import MAX_KEPT_BYTES, TokenCounter
from keyportal.gateway.relay.answer import BufferedBody
from keyportal.gateway.relay.sse import CompleteEvents
from tests.support import model_responses
from tests.support.model_responses import CACHED, COMPLETION, PROMPT

ALL = (PROMPT, COMPLETION, CACHED)


def asked(*, does_generate: bool = True, is_usage_hidden: bool = False) -> TokenCounter:
    counter = TokenCounter()
    counter.expect_answer(100, does_generate=does_generate, is_usage_hidden=is_usage_hidden)
    return counter


def counted(counter: TokenCounter) -> tuple[int, int, int]:
    return counter.prompt, counter.completion, counter.details.cached_tokens


def whole(body: bytes, size: int = 1_000_000) -> TokenCounter:
    """A token counter that has read `body` in chunks of `size`."""
    counter = asked()
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    assert b"".join(map(counter.feed, pieces)) == body
    counter.close(is_served=True)
    return counter


def streamed(events: list[bytes], *, is_usage_hidden: bool = False) -> tuple[TokenCounter, bytes]:
    counter = asked(is_usage_hidden=is_usage_hidden)
    passed = b"".join(map(counter.feed_events, events))
    counter.close(is_served=True)
    return counter, passed


@pytest.mark.parametrize("size", [1, 7, 1_000_000])
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/chat/completions", ALL),
        ("/v1/responses", ALL),
        ("/v1/messages", ALL),
        ("/v1/audio/transcriptions", ALL),
        ("/v1/images/generations", (PROMPT, COMPLETION, 0)),
        ("/v1/embeddings", (PROMPT, 0, 0)),
        ("/v1/rerank", (PROMPT, 0, 0)),
    ],
)
def test_usage_of_a_complete_answer_is_read(
    path: str, expected: tuple[int, int, int], size: int
) -> None:
    counter = whole(json.dumps(model_responses.FULL_RESPONSES[path]).encode(), size)
    assert counted(counter) == expected
    assert counter.is_reported


def test_usage_at_the_end_of_a_long_answer_is_read() -> None:
    """Only its end is kept. Usage quoted in the text of an answer is ignored."""
    text = '"usage": {"prompt_tokens": 999999, "completion_tokens": 999999} ' * 2000
    answer = model_responses.CHAT | {"choices": [{"message": {"content": text}}]}
    answer["usage"] = answer.pop("usage")  # Last, as in servers' answers.
    body = json.dumps(answer).encode()
    assert len(body) > 2 * MAX_KEPT_BYTES
    for size in (1000, 65_536):
        assert counted(whole(body, size)) == ALL


@pytest.mark.parametrize("path", model_responses.STREAM_RESPONSES)
def test_usage_of_a_stream_is_read_and_its_bytes_unchanged(path: str) -> None:
    events = model_responses.STREAM_RESPONSES[path]
    counter, passed = streamed(events)
    assert counted(counter) == ALL
    assert counter.is_reported
    assert passed == b"".join(events)
    together, _ = streamed([b"".join(events)])
    assert counted(together) == ALL


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n"])
def test_only_the_hidden_usage_event_is_dropped(end: bytes) -> None:
    """Servers add `"usage": null` to every chunk if usage is requested. Those chunks pass."""
    events = [event.removesuffix(b"\n\n") + end for event in model_responses.CHAT_STREAM]
    hidden = model_responses.CHAT_USAGE_EVENT.removesuffix(b"\n\n") + end
    rest = b"".join(event for event in events if event != hidden)
    for stream in (events, [b"".join(events)]):
        counter, passed = streamed(stream, is_usage_hidden=True)
        assert passed == rest
        assert counted(counter) == ALL
    counter, passed = streamed(events, is_usage_hidden=False)
    assert passed == b"".join(events)


def test_usage_in_an_event_with_text_is_never_dropped() -> None:
    """Some servers report usage in the last chunk with text, some in every chunk."""
    chunk = model_responses.data_event(
        {
            "choices": [{"index": 0, "delta": {"content": "x"}}],
            "usage": model_responses.OPENAI_USAGE,
        }
    )
    counter, passed = streamed([chunk, chunk], is_usage_hidden=True)
    assert passed == chunk + chunk
    assert counted(counter) == ALL


def test_counts_that_grow_are_not_added_up() -> None:
    growing = [
        model_responses.data_event(
            {"choices": [{}], "usage": {"prompt_tokens": 9, "completion_tokens": n}}
        )
        for n in (1, 2, 3)
    ]
    assert counted(streamed(growing)[0]) == (9, 3, 0)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/v1/chat/completions", model_responses.TEXT),
        ("/v1/responses", "Hello"),
        ("/v1/messages", "Hello"),
    ],
)
def test_incomplete_stream_is_estimated_by_the_bytes_of_its_text(path: str, text: str) -> None:
    counter, _ = streamed(model_responses.STREAM_RESPONSES[path][:4])
    assert not counter.is_reported
    assert counter.is_estimated
    assert counter.completion == math.ceil(len(text) / BYTES_PER_TOKEN)
    assert counter.prompt == (PROMPT if path == "/v1/messages" else 100)


def test_refused_call_is_not_estimated() -> None:
    counter = asked()
    counter.feed(b'{"error": {"message": "no"}}')
    counter.close(is_served=False)
    assert counted(counter) == (0, 0, 0)


def test_answer_without_generated_text_has_no_completion_tokens() -> None:
    counter = asked(does_generate=False)
    counter.feed(bytes(100_000))
    counter.close(is_served=True)
    assert counted(counter) == (100, 0, 0)


@pytest.mark.parametrize(
    ("event", "is_last"),
    [
        (b"data: [DONE]\n\n", True),
        (b"data:[DONE]\n\n", True),
        (model_responses.MESSAGE_STREAM[-1], True),
        (model_responses.RESPONSE_STREAM[-1], True),
        (model_responses.MESSAGE_STREAM[-2], False),
        (model_responses.RESPONSE_STREAM[0], False),
        (model_responses.data_event({"content": "data: [DONE]"}), False),
        (model_responses.data_event({"content": "\nevent: message_stop"}), False),
    ],
)
def test_last_event_is_recognized(event: bytes, is_last: bool) -> None:
    counter = asked()
    counter.feed_events(event)
    assert counter.has_last_event is is_last


DEEP = b"[" * 100_000
STRANGE: list[bytes] = [
    b"",
    b"usage",
    b'"usage"',
    b'"usage":',
    b'"usage": null',
    b'"usage": 7',
    b'"usage": [1]',
    b'{"usage": "much"}',
    b'{"usage": {"prompt_tokens": "many"}}',
    b'{"usage": {"prompt_tokens": 1e400}}',
    b'{"usage": {"prompt_tokens": NaN}}',
    b'{"usage": {"prompt_tokens": null}}',
    b'{"usage": ' + DEEP,
    b'{"a": ' + DEEP + b', "usage": {"prompt_tokens": 1}}',
    b'\xff\xfe"usage": {\xff',
]


@pytest.mark.parametrize("body", STRANGE, ids=range(len(STRANGE)))
def test_odd_answers_raise_nothing(body: bytes) -> None:
    whole(body)
    _, passed = streamed([b"data: " + body + b"\n\n"])
    assert passed == b"data: " + body + b"\n\n"


@given(
    st.lists(
        st.binary(max_size=50) | st.sampled_from([*STRANGE[:12], *model_responses.CHAT_STREAM])
    )
)
def test_any_bytes_pass_unchanged(parts: list[bytes]) -> None:
    counter = asked()
    for part in parts:
        assert counter.feed(part) == part
        assert counter.feed_events(part) == part
    counter.close(is_served=True)


def test_negative_count_is_ignored() -> None:
    body: dict[str, Any] = {"usage": {"prompt_tokens": -5, "completion_tokens": -7}}
    assert counted(whole(json.dumps(body).encode())) == (0, 0, 0)


@pytest.mark.parametrize("path", model_responses.STREAM_RESPONSES)
@pytest.mark.parametrize("size", [1, 7, 64])
def test_events_split_over_chunks_are_read(path: str, size: int) -> None:
    text = b"".join(model_responses.STREAM_RESPONSES[path])

    network = BufferedBody([text[start : start + size] for start in range(0, len(text), size)])

    async def read() -> list[bytes]:
        events, found = CompleteEvents(network), []
        while event := await events.next_chunk():
            found.append(event)
        return found

    counter, passed = streamed(asyncio.run(read()))
    assert counted(counter) == ALL
    assert passed == text


@pytest.mark.parametrize("told", [2**31, 10**18, 10**30])
def test_huge_count_is_cut_to_the_columns_maximum(told: int) -> None:
    usage = {"prompt_tokens": told, "completion_tokens": 1}
    counter = whole(json.dumps({"usage": usage}).encode())
    assert counter.prompt <= 2**31 - 1
    assert counter.completion in {0, 1}
