"""The demo model answers in OpenAI's format and counts words as tokens."""

import asyncio
import base64
import json
import struct
from typing import Any, cast

import pytest

from keyportal.gateway.demo_model import app
from keyportal.gateway.errors import BadRequest
from keyportal.gateway.relay.answer import Answer

pytestmark = pytest.mark.any_database

HELLO = [{"role": "user", "content": "Hello, model!"}]
DISCLAIMER = "not a language model"


def ask(endpoint: str, **fields: object) -> Answer:
    return app.answer(endpoint, json.dumps({"model": "loopback", **fields}).encode())


def body(answer: Answer) -> bytes:
    if isinstance(answer.body, bytes):
        return answer.body
    parts = answer.body

    async def read() -> bytes:
        text = b""
        while part := await parts.next_chunk():
            text += part
        return text

    return asyncio.run(read())


def whole(endpoint: str, **fields: object) -> dict[str, Any]:
    answer = ask(endpoint, **fields)
    content = body(answer)
    assert answer.status == 200
    assert dict(answer.headers) == {
        b"content-type": b"application/json",
        b"content-length": str(len(content)).encode(),
    }
    return cast("dict[str, Any]", json.loads(content))


def streamed(endpoint: str, **fields: object) -> list[dict[str, Any]]:
    answer = ask(endpoint, stream=True, **fields)
    assert dict(answer.headers)[b"content-type"] == b"text/event-stream; charset=utf-8"
    *events, done, rest = body(answer).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in events]


def test_large_body_is_refused_before_it_is_decoded() -> None:
    """Attack: two million messages in 20 MiB."""
    head, end = b'{"model": "m", "input": "', b'"}'
    room = app.MAX_REQUEST_BYTES - len(head + end)
    assert app.answer("/embeddings", head + b"x" * room + end).status == 200
    with pytest.raises(BadRequest, match="at most 8388608 bytes"):
        app.answer("/embeddings", head + b"x" * (room + 1) + end)


def test_chat_is_answered() -> None:
    said = whole("/chat/completions", messages=HELLO, temperature=0.7, unknown={"a": [1]})
    (choice,) = said["choices"]
    content = choice["message"]["content"]
    assert DISCLAIMER in content
    assert content.endswith("You said: Hello, model!")
    assert choice == {
        "index": 0,
        "message": {"role": "assistant", "content": content, "refusal": None},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert said["id"].startswith("chatcmpl-")
    assert (said["object"], said["model"]) == ("chat.completion", "loopback")
    words = len(content.split())
    assert said["usage"] == {
        "prompt_tokens": 2,
        "completion_tokens": words,
        "total_tokens": 2 + words,
    }


def test_chat_counts_all_messages_and_parts_of_content() -> None:
    messages = [
        {"role": "system", "content": "one two"},
        {"role": "assistant", "content": None, "tool_calls": []},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "three four"},
                {"type": "image_url", "image_url": {"url": "data:"}},
                {"type": "text", "text": "five"},
            ],
        },
    ]
    said = whole("/chat/completions", messages=messages)
    assert said["usage"]["prompt_tokens"] == 5
    assert said["choices"][0]["message"]["content"].endswith("You said: three four five")


def test_chat_without_messages_is_answered() -> None:
    assert whole("/chat/completions", messages=[])["usage"]["prompt_tokens"] == 0


def test_streamed_chat_has_the_same_content() -> None:
    events = streamed("/chat/completions", messages=HELLO)
    first, *middle, last = [event["choices"][0] for event in events]
    assert first["delta"] == {"role": "assistant", "content": ""}
    assert (last["delta"], last["finish_reason"]) == ({}, "stop")
    assert {one["finish_reason"] for one in [first, *middle]} == {None}
    content = "".join(one["delta"]["content"] for one in middle)
    expected = whole("/chat/completions", messages=HELLO)
    assert content == expected["choices"][0]["message"]["content"]
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert len({event["id"] for event in events}) == 1


def test_completion_is_answered() -> None:
    said = whole("/completions", prompt="Once upon a time")
    (choice,) = said["choices"]
    assert DISCLAIMER in choice["text"]
    assert said["object"] == "text_completion"
    assert said["id"].startswith("cmpl-")
    assert choice["finish_reason"] == "stop"
    assert said["usage"]["prompt_tokens"] == 4
    assert said["usage"]["completion_tokens"] == len(choice["text"].split())


def test_streamed_completion_has_the_same_content() -> None:
    *middle, last = streamed("/completions", prompt="one two three")
    text = "".join(event["choices"][0]["text"] for event in middle)
    assert text == whole("/completions", prompt="one two three")["choices"][0]["text"]
    assert last["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("endpoint", "prompt"),
    [("/chat/completions", {"messages": HELLO}), ("/completions", {"prompt": "Hello, model!"})],
)
def test_usage_is_streamed_only_on_request(endpoint: str, prompt: dict[str, object]) -> None:
    for options in ({}, {"stream_options": None}, {"stream_options": {"include_usage": False}}):
        assert all("usage" not in event for event in streamed(endpoint, **prompt, **options))
    *events, last = streamed(endpoint, **prompt, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == whole(endpoint, **prompt)["usage"]
    assert all("usage" not in event for event in events)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_token_limit_truncates_with_finish_reason_length(name: str) -> None:
    said = whole("/chat/completions", messages=HELLO, **{name: 3})
    assert said["choices"][0]["message"]["content"].split() == ["This", "is", "Keyportal's"]
    assert said["choices"][0]["finish_reason"] == "length"
    assert said["usage"]["completion_tokens"] == 3
    *_, last = streamed("/chat/completions", messages=HELLO, **{name: 3})
    assert last["choices"][0]["finish_reason"] == "length"


def test_token_limit_that_is_not_reached_has_no_effect() -> None:
    said = whole("/completions", prompt="x", max_tokens=1000)
    assert said["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("limit", [0, -1])
def test_token_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(BadRequest):
        ask("/chat/completions", messages=HELLO, max_tokens=limit)


def embeddings(**fields: object) -> list[Any]:
    said = whole("/embeddings", **fields)
    assert said["object"] == "list"
    assert [one["index"] for one in said["data"]] == list(range(len(said["data"])))
    assert {one["object"] for one in said["data"]} <= {"embedding"}
    return [one["embedding"] for one in said["data"]]


@pytest.mark.parametrize(
    ("given", "count", "tokens"),
    [
        ("one two three", 1, 3),
        (["one two", "three"], 2, 3),
        ([1, 2, 3, 4], 1, 4),
        ([[1, 2], [3]], 2, 3),
        ("", 1, 0),
        ([], 0, 0),
    ],
)
def test_embeddings_accept_every_kind_of_input(given: object, count: int, tokens: int) -> None:
    assert len(embeddings(input=given)) == count
    usage = whole("/embeddings", input=given)["usage"]
    assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_embeddings_have_unit_length_and_depend_only_on_the_text() -> None:
    one, same, other = embeddings(input=["a cat", "a cat", "a dog"])
    assert one == same != other
    assert len(one) == app.DIMENSIONS
    assert sum(number * number for number in one) == pytest.approx(1)


def test_base64_encodes_the_same_numbers() -> None:
    (text,) = embeddings(input="a cat", encoding_format="base64")
    (numbers,) = embeddings(input="a cat", encoding_format="float")
    raw = base64.b64decode(text)
    assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(numbers)


@pytest.mark.parametrize("dimensions", [1, 256, app.MAX_DIMENSIONS])
def test_embeddings_have_the_requested_dimensions(dimensions: int) -> None:
    assert len(embeddings(input="x", dimensions=dimensions)[0]) == dimensions


@pytest.mark.parametrize("dimensions", [0, -1, app.MAX_DIMENSIONS + 1, 10**30])
def test_invalid_dimensions_are_refused(dimensions: int) -> None:
    with pytest.raises(BadRequest):
        ask("/embeddings", input="x", dimensions=dimensions)


@pytest.mark.parametrize(
    ("endpoint", "fields"),
    [
        ("/chat/completions", {}),
        ("/chat/completions", {"messages": "Hello"}),
        ("/chat/completions", {"messages": [{"content": "no role"}]}),
        ("/chat/completions", {"messages": [{"role": "user", "content": 1}]}),
        ("/chat/completions", {"messages": HELLO, "stream": "yes"}),
        ("/chat/completions", {"messages": HELLO, "max_tokens": "many"}),
        ("/chat/completions", {"messages": HELLO, "max_tokens": 1.5}),
        ("/completions", {}),
        ("/completions", {"prompt": {"a": 1}}),
        ("/embeddings", {}),
        ("/embeddings", {"input": None}),
        ("/embeddings", {"input": [1.5]}),
        ("/embeddings", {"input": "x", "dimensions": "all"}),
    ],
)
def test_invalid_body_is_refused(endpoint: str, fields: dict[str, object]) -> None:
    with pytest.raises(BadRequest) as caught:
        ask(endpoint, **fields)
    assert str(caught.value)


def test_deeply_nested_body_is_refused() -> None:
    nested = b"[" * 100_000 + b"]" * 100_000
    with pytest.raises(BadRequest):
        app.answer("/chat/completions", b'{"model": "a", "x": ' + nested + b"}")


def test_large_prompt_gives_a_small_response() -> None:
    """Answers are made in the event loop, so a caller must not keep it busy for long."""
    words = "word " * 1_000_000
    said = whole("/chat/completions", messages=[{"role": "user", "content": words}])
    assert said["usage"]["prompt_tokens"] == 1_000_000
    assert said["usage"]["completion_tokens"] < 500
    assert len(streamed("/completions", prompt=words)) < 500


@pytest.mark.parametrize(("inputs", "dimensions"), [(4097, 64), (65, 4096)])
def test_number_of_inputs_is_limited(inputs: int, dimensions: int) -> None:
    assert len(embeddings(input=[""] * (inputs - 1), dimensions=dimensions)) == inputs - 1
    with pytest.raises(BadRequest):
        ask("/embeddings", input=[""] * inputs, dimensions=dimensions)


def test_null_means_the_default() -> None:
    assert "choices" in whole("/chat/completions", messages=HELLO, stream=None, max_tokens=None)
    said = whole("/embeddings", input="one", dimensions=None, encoding_format=None)
    assert len(said["data"][0]["embedding"]) == app.DIMENSIONS


def test_each_prompt_gets_its_own_choice() -> None:
    said = whole("/completions", prompt=["one", "two three"])
    assert [choice["index"] for choice in said["choices"]] == [0, 1]
    texts = [choice["text"] for choice in said["choices"]]
    assert [text.rpartition(": ")[2] for text in texts] == ["one", "two three"]
    assert said["usage"]["prompt_tokens"] == 3
    assert said["usage"]["completion_tokens"] == sum(len(text.split()) for text in texts)
    streams = {0: "", 1: ""}
    for event in streamed("/completions", prompt=["one", "two three"]):
        streams[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert [*streams.values()] == texts


@pytest.mark.parametrize(
    ("prompt", "counts"), [([1, 2, 3], [3]), ([[1, 2], [3]], [2, 1]), ("one two", [2])]
)
def test_prompt_may_be_token_ids(prompt: object, counts: list[int]) -> None:
    said = whole("/completions", prompt=prompt)
    assert len(said["choices"]) == len(counts)
    assert said["usage"]["prompt_tokens"] == sum(counts)


@pytest.mark.parametrize("count", [0, 101])
def test_number_of_prompts_is_limited(count: int) -> None:
    with pytest.raises(BadRequest, match="1 to 100 prompts"):
        ask("/completions", prompt=["x"] * count)
