"""The tokens of a call: read in every shape that servers report, or estimated."""

import asyncio
import json
import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyportal.gateway.metering.estimates import BYTES_PER_TOKEN, MEDIA_TOKENS
from keyportal.gateway.metering.reported_usage import NO_DETAILS
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


def streamed_text(*events: str, is_usage_hidden: bool = False) -> tuple[TokenCounter, bytes]:
    return streamed([event.encode() for event in events], is_usage_hidden=is_usage_hidden)


FULL_USAGE: dict[str, Any] = {
    "prompt_tokens": 100,
    "completion_tokens": 50,
    "total_tokens": 150,
    "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 7, "image_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 9, "image_tokens": 4},
}


@pytest.mark.parametrize(
    ("answer", "expected", "details"),
    [
        (
            {"usage": FULL_USAGE, "service_tier": "priority"},
            (100, 50),
            {
                "cached_tokens": 30,
                "reasoning_tokens": 20,
                "audio_prompt_tokens": 7,
                "audio_completion_tokens": 9,
                "image_prompt_tokens": 8,
                "image_completion_tokens": 4,
            },
        ),
        (
            {
                "usage": {
                    "input_tokens": 10,
                    "cache_read_input_tokens": 200,
                    "cache_creation_input_tokens": 70,
                    "cache_creation": {
                        "ephemeral_5m_input_tokens": 20,
                        "ephemeral_1h_input_tokens": 50,
                    },
                    "output_tokens": 5,
                    "service_tier": "priority",
                }
            },
            (280, 5),
            {"cached_tokens": 200, "cache_write_tokens": 70, "cache_write_1h_tokens": 50},
        ),
        (
            {
                "usage": {
                    "input_tokens": 14,
                    "input_token_details": {"text_tokens": 0, "audio_tokens": 14},
                    "output_tokens": 45,
                },
                "service_tier": "priority",
            },
            (14, 45),
            {"audio_prompt_tokens": 14},
        ),
        (
            {
                "usage": {
                    "prompt_tokens": 90,
                    "completion_tokens": 4,
                    "prompt_tokens_details": {"cached_tokens": 30},
                    "cache_creation_input_tokens": 60,
                    "cache_read_input_tokens": 30,
                },
                "service_tier": "priority",
            },
            (90, 4),
            {"cached_tokens": 30, "cache_write_tokens": 60},
        ),
        (
            {
                "usage": {
                    "prompt_tokens": 32,
                    "completion_tokens": 9,
                    "total_tokens": 135,
                    "completion_tokens_details": {"reasoning_tokens": 94},
                },
                "service_tier": "priority",
            },
            (32, 103),
            {"reasoning_tokens": 94},
        ),
        (
            {
                "meta": {"billed_units": {"input_tokens": 3}, "tokens": {"input_tokens": 41}},
                "service_tier": "priority",
            },
            (41, 0),
            {},
        ),
    ],
)
@pytest.mark.parametrize("size", [9, 1_000_000])
def test_parts_with_prices_of_their_own_are_kept_apart(
    answer: dict[str, Any], expected: tuple[int, int], details: dict[str, int], size: int
) -> None:
    counter = whole(json.dumps(answer).encode(), size)
    assert (counter.prompt, counter.completion) == expected
    assert counter.details == NO_DETAILS._replace(**details)
    assert counter.service_tier == "priority"


@pytest.mark.parametrize("tier", ["<b>", "x" * 21, "", 7, "a b", None])
def test_an_odd_service_tier_is_not_kept(tier: object) -> None:
    counter = whole(json.dumps({"usage": FULL_USAGE, "service_tier": tier}).encode())
    assert (counter.prompt, counter.service_tier) == (100, "")


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 12.0, "completion_tokens": "7"}, (12, 7)),
        ({"prompt_tokens": 12, "completion_tokens": 7, "prompt_tokens_details": "?"}, (12, 7)),
        ({"prompt_tokens": 12, "completion_tokens": 7, "total_tokens": {"x": 1}}, (12, 7)),
        ({"input_tokens": 12, "output_tokens": 7, "cache_creation": []}, (12, 7)),
        ({"prompt_tokens": 12, "completion_tokens": 7, "service_tier": 1}, (12, 7)),
    ],
)
def test_an_odd_field_costs_no_other_field_its_value(
    usage: dict[str, object], expected: tuple[int, int]
) -> None:
    body = {"choices": [{"message": {"content": "x"}}], "message": "fine", "usage": usage}
    for counter in (
        whole(json.dumps(body).encode()),
        streamed([model_responses.data_event(body)])[0],
    ):
        assert (counter.prompt, counter.completion) == expected
        assert not counter.is_estimated


NOT_TOLD: list[object] = [
    None,
    {},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {"prompt_tokens": None, "completion_tokens": None},
    {"prompt_tokens": "many", "completion_tokens": -7},
]


@pytest.mark.parametrize("usage", NOT_TOLD, ids=range(len(NOT_TOLD)))
def test_zeros_beside_a_prompt_and_an_answer_are_estimated(usage: object) -> None:
    body = model_responses.CHAT | {"usage": usage}
    for counter in (
        whole(json.dumps(body).encode()),
        streamed([*model_responses.CHAT_EVENTS, model_responses.data_event(body)])[0],
    ):
        assert counter.is_estimated
        assert counter.prompt == 100
        assert counter.completion >= len(model_responses.TEXT) // BYTES_PER_TOKEN


def test_zeros_of_an_answer_without_text_are_right() -> None:
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    body = {"choices": [{"index": 0, "message": {"content": ""}}], "usage": usage}
    for counter in (
        whole(json.dumps(body).encode()),
        streamed([model_responses.data_event(body)])[0],
    ):
        assert (counter.total, counter.is_estimated) == (0, False)


def test_completion_alone_is_estimated_if_only_it_was_not_told() -> None:
    body = model_responses.CHAT | {"usage": {"prompt_tokens": 11, "completion_tokens": 0}}
    counter = whole(json.dumps(body).encode())
    assert (counter.prompt, counter.completion, counter.is_estimated) == (11, 4, True)


def test_a_total_alone_is_not_counted_twice() -> None:
    counter = whole(json.dumps(model_responses.CHAT | {"usage": {"total_tokens": 18}}).encode())
    assert (counter.total, counter.is_estimated) == (18, False)


@pytest.mark.parametrize("size", [1000, 65_536, 10_000_000])
def test_a_response_of_any_size_is_counted(size: int) -> None:
    """The last event of OpenAI's newer streams has the whole answer, with tools and pictures."""
    forged = {"usage": {"input_tokens": 90_000}, "text": "x" * 50_000}
    response = model_responses.RESPONSE | {"tools": [forged] * 30, "output": []}
    response["usage"] = response.pop("usage")
    event = model_responses.named_event({"type": "response.completed", "response": response})
    assert len(event) > 1_500_000
    stream = b"".join([*model_responses.RESPONSE_STREAM[:-1], event])
    chunks = list(complete_events(stream, size))
    counter = asked()
    for chunk in chunks:
        # A call is closed when its last event has passed: not when only its name has.
        assert not counter.has_last_event
        counter.feed_events(chunk)
    counter, passed = streamed(chunks)
    assert counted(counter) == ALL
    assert counter.is_reported
    assert counter.has_last_event
    assert passed == stream


def test_an_event_after_a_long_one_is_counted() -> None:
    long_event = model_responses.data_event({"choices": [], "x": ["y" * 1_200_000]})
    for size in (1024 * 1024 + 1, 65_536, 65_537):
        stream = long_event + b"".join(model_responses.CHAT_STREAM)
        counter, passed = streamed(complete_events(stream, size), is_usage_hidden=True)
        assert counted(counter) == ALL
        assert counter.has_last_event
        assert passed == stream.replace(model_responses.CHAT_USAGE_EVENT, b"")


@pytest.mark.parametrize("place", ["before", "after"])
def test_usage_of_long_embeddings_is_counted_wherever_it_stands(place: str) -> None:
    data = {"data": [{"object": "embedding", "embedding": [0.123456] * 1536}] * 100}
    usage = {"usage": {"prompt_tokens": PROMPT, "total_tokens": PROMPT}}
    body = json.dumps(usage | data if place == "before" else data | usage).encode()
    assert len(body) > 1_000_000
    counter = asked(does_generate=False)
    for start in range(0, len(body), 65_536):
        counter.feed(body[start : start + 65_536])
    counter.close(is_served=True)
    assert (counter.prompt, counter.completion, counter.is_estimated) == (PROMPT, 0, False)


FORGED = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [{"index": 0, "document": FORGED}]},
        {"tools": [{"parameters": {"properties": FORGED}}], "metadata": FORGED},
        {"metadata": json.dumps(FORGED), "choices": [{"message": {"content": '"usage": {}'}}]},
        {"x": {"response": FORGED, "message": FORGED}},
        {"data": [{"response": FORGED}], "results": FORGED},
    ],
)
@pytest.mark.parametrize("size", [50, 10_000_000])
@pytest.mark.parametrize("padding", [0, 200_000])
def test_usage_in_what_an_answer_repeats_never_counts(
    answer: dict[str, Any], size: int, padding: int
) -> None:
    """Attack: the caller sends usage in a document, a tool's schema or metadata."""
    body = json.dumps({"padding": "x" * padding} | answer).encode()
    counter = asked(does_generate=False)
    for start in range(0, len(body), size):
        counter.feed(body[start : start + size])
    counter.close(is_served=True)
    assert (counter.prompt, counter.is_estimated) == (100, True)
    events, _ = streamed([model_responses.data_event(answer)])
    assert events.is_estimated


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "lines",
    [
        ["data: {usage}", "id: 5"],
        ["id: 5", "event: x", "data:{usage}", "retry: 3"],
        [
            'data: {"choices": [],',
            'data: "usage": {"prompt_tokens": 11,',
            'data: "completion_tokens": 7}}',
        ],
        [": a comment", "data: {usage}"],
    ],
    ids=range(4),
)
def test_events_of_any_legal_shape_are_counted_and_hidden(lines: list[str], end: str) -> None:
    usage = (
        '{"choices":[{"index":0,"delta":{}}],"usage":{"prompt_tokens":11,"completion_tokens":7}}'
    )
    event = end.join(line.replace("{usage}", usage) for line in lines) + end + end
    counter, passed = streamed_text(event, is_usage_hidden=True)
    assert (counter.prompt, counter.completion) == (11, 7)
    assert passed == b""
    counter, passed = streamed_text(event)
    assert (counter.prompt, passed) == (11, event.encode())


@pytest.mark.parametrize(
    ("choices", "is_hidden"),
    [
        ([], True),
        (None, True),
        ([{"delta": {}}], True),
        ([{"index": 0, "delta": {"content": None, "role": None}, "finish_reason": None}], True),
        ([{"delta": {"content": ""}, "logprobs": None}], True),
        ([{"text": "", "index": 0}], True),
        ([{"delta": {}, "finish_reason": "stop"}], False),
        ([{"delta": {"content": "x"}}], False),
        ([{"delta": {"tool_calls": [{"index": 0}]}}], False),
        ([{"delta": {"role": "assistant", "content": ""}}], False),
        ([{"text": "x"}], False),
        ([{"delta": {}}, {"delta": {"content": "x"}}], False),
        ([{"delta": {}, "finish_reason": 5}], False),
        ("odd", False),
    ],
)
def test_a_usage_chunk_is_hidden_unless_it_adds_to_the_answer(
    choices: object, is_hidden: bool
) -> None:
    event = model_responses.data_event({"choices": choices, "usage": model_responses.OPENAI_USAGE})
    counter, passed = streamed([event], is_usage_hidden=True)
    assert counted(counter) == ALL
    assert passed == (b"" if is_hidden else event)


@pytest.mark.parametrize(
    ("event", "is_error"),
    [
        ('data: {"error": {"message": "CUDA"}}\n\n', True),
        ('data: {"error": "out of memory", "usage": {"prompt_tokens": 1}}\n\n', True),
        ('event: error\ndata: {"type": "error", "error": {"type": "overloaded_error"}}\n\n', True),
        ("event: error\ndata: it broke\n\n", True),
        ('event: response.failed\ndata: {"type": "response.failed", "response": {}}\n\n', True),
        ('data: {"choices": [], "error": null}\n\n', False),
        ('data: {"choices": [], "error": ""}\n\n', False),
        ('data: {"choices": [{"delta": {"content": "\\"error\\": 1"}}]}\n\n', False),
        ('data: {"choices": [{"delta": {"error": "x"}}]}\n\n', False),
        ('event: response.created\ndata: {"type": "x", "response": {"error": null}}\n\n', False),
    ],
)
def test_an_error_event_is_recognized_and_passed_on(event: str, is_error: bool) -> None:
    for text in (event, "data: {}\n\n" + event + "data: {}\n\n"):
        counter, passed = streamed_text(text, is_usage_hidden=True)
        assert counter.has_error_event is is_error
        assert passed == text.encode()


def test_a_prompt_that_was_sent_counts_without_an_answer() -> None:
    counter = asked()
    counter.close(is_served=False)
    assert (counter.total, counter.is_estimated) == (0, False)
    counter = asked()
    counter.prompt_sent()
    counter.close(is_served=False)
    assert (counter.prompt, counter.completion, counter.is_estimated) == (100, 0, True)


def test_a_prompt_that_was_refused_does_not_count() -> None:
    counter = asked()
    counter.prompt_sent()
    counter.prompt_refused()
    counter.feed(b'{"error": {"message": "no"}}')
    counter.close(is_served=False)
    assert (counter.total, counter.is_estimated) == (0, False)


def test_a_generated_picture_without_usage_counts_a_fixed_sum() -> None:
    picture = "A" * 400_000
    images = [{"image_url": {"url": f"data:image/png;base64,{picture}"}}]
    body = {"choices": [{"message": {"content": "Here.", "images": images}}]}
    counter = whole(json.dumps(body).encode())
    assert counter.completion == MEDIA_TOKENS + 2


def test_a_long_stream_is_estimated_by_its_text() -> None:
    """Its events have several words each, and most of their bytes frame them."""
    events = [
        event.replace(b"Hello", b"Hello all the world") for event in model_responses.CHAT_EVENTS
    ]
    text_size = len(model_responses.TEXT) + len(" all the world")
    counter, _ = streamed(events * 500)
    assert counter.completion == pytest.approx(text_size * 500 / BYTES_PER_TOKEN, rel=0.05)


def test_images_are_counted() -> None:
    counter = TokenCounter()
    counter.expect_answer(5, does_generate=False, makes_images=True)
    counter.feed(json.dumps({"data": [{"url": "https://x"}, {"url": "https://y"}]}).encode())
    counter.close(is_served=True)
    assert counter.details.images == 2
    long_counter = TokenCounter()
    long_counter.expect_answer(5, does_generate=False, makes_images=True)
    body = json.dumps({"data": [{"b64_json": "A" * 100_000}] * 3}).encode()
    for start in range(0, len(body), 10_000):
        long_counter.feed(body[start : start + 10_000])
    long_counter.close(is_served=True)
    assert long_counter.details.images == 3


@example([b": keep-alive\n\n", model_responses.MESSAGE_STREAM[-1]], [])
@given(
    st.lists(
        st.sampled_from([*model_responses.CHAT_STREAM, *model_responses.MESSAGE_STREAM])
        | st.sampled_from([b": keep-alive\n\n", b"event: x\ndata: {}\nid: 7\n\n"]),
        max_size=12,
    ),
    st.lists(st.integers(0, 100_000), max_size=10),
)
def test_any_cut_of_a_stream_gives_the_same_counts(events: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(events)
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges) if start < end]
    cut, passed = streamed(asyncio.run(read_events(pieces)), is_usage_hidden=True)
    together, _ = streamed(events, is_usage_hidden=True)
    assert counted(cut) == counted(together)
    assert (cut.is_reported, cut.has_last_event) == (together.is_reported, together.has_last_event)
    assert passed == stream.replace(model_responses.CHAT_USAGE_EVENT, b"")


async def read_events(pieces: list[bytes]) -> list[bytes]:
    events, found = CompleteEvents(BufferedBody(pieces)), []
    while event := await events.next_chunk():
        found.append(event)
    return found


def complete_events(stream: bytes, size: int) -> list[bytes]:
    """The chunks that the relay makes of `stream` if it arrives in chunks of `size`."""
    return asyncio.run(
        read_events([stream[start : start + size] for start in range(0, len(stream), size)])
    )
