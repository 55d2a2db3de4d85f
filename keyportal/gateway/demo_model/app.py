"""The built-in demo model: chat completions, completions and embeddings without a model server.

With it a new installation can be tried end to end. It counts words as tokens, and its text says
that it is not a language model.
"""

import base64
import hashlib
import secrets
import struct
import time
from collections.abc import Iterator
from typing import Annotated, Any

import msgspec

from keyportal.gateway.demo_model.echo import Echo, Message, count_words
from keyportal.gateway.errors import BadRequest
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.gateway.relay.answer import Answer, json_answer, stream_answer

DIMENSIONS = 64
MAX_DIMENSIONS = 4096
# Limits, because answers are made in the event loop, while other calls wait. Attack: a body of
# 20 MiB has two million messages, whose objects need 300 MB.
MAX_REQUEST_BYTES = 8 * 1024 * 1024
MAX_NUMBERS = 2**18
MAX_PROMPTS = 100

PositiveInt = Annotated[int, msgspec.Meta(ge=1)]


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class GenerationRequest(msgspec.Struct):
    """The fields that `/chat/completions` and `/completions` have in common."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: PositiveInt | None = None
    max_completion_tokens: PositiveInt | None = None

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(GenerationRequest, kw_only=True):
    messages: list[Message]


class CompletionRequest(GenerationRequest, kw_only=True):
    prompt: str | list[str | int | list[int]]


class EmbeddingRequest(msgspec.Struct):
    model: str
    input: str | list[str | int | list[int]]
    encoding_format: str | None = None
    dimensions: int | None = None

    @property
    def length(self) -> int:
        return DIMENSIONS if self.dimensions is None else self.dimensions


def answer(endpoint: str, body: bytes | StreamedBody) -> Answer:
    """Answer as a model server would. Raises `BadRequest` for a body that it would refuse."""
    if endpoint not in _ANSWERS or isinstance(body, StreamedBody):
        raise BadRequest(f"The built-in model doesn't serve /v1{endpoint}.")
    if len(body) > MAX_REQUEST_BYTES:
        raise BadRequest(f"The built-in model reads at most {MAX_REQUEST_BYTES} bytes.")
    try:
        return _ANSWERS[endpoint](body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(str(error)) from None


def _chat(body: bytes) -> Answer:
    request = msgspec.json.decode(body, type=ChatRequest)
    reply = Reply(request, [message.text() for message in request.messages])
    if request.stream:
        return reply.stream("chatcmpl", "chat.completion.chunk", _chat_deltas(reply))
    message = {"role": "assistant", "content": reply.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
    return reply.complete("chatcmpl", "chat.completion", choice)


def _chat_deltas(reply: "Reply") -> Iterator[dict[str, object]]:
    yield {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
    for word in reply.pieces():
        yield {"index": 0, "delta": {"content": word}, "finish_reason": None}
    yield {"index": 0, "delta": {}, "finish_reason": reply.finish}


def _completion(body: bytes) -> Answer:
    request = msgspec.json.decode(body, type=CompletionRequest)
    prompts = _inputs(request.prompt)
    if not 1 <= len(prompts) <= MAX_PROMPTS:
        raise BadRequest(f"`prompt` must have 1 to {MAX_PROMPTS} prompts.")
    first, *others = [Reply(request, [prompt]) for prompt in prompts]
    first.others = others
    if request.stream:
        return first.stream("cmpl", "text_completion", _text_deltas([first, *others]))
    choices: list[dict[str, object]] = [
        {"index": index, "text": reply.text, "logprobs": None, "finish_reason": reply.finish}
        for index, reply in enumerate([first, *others])
    ]
    return first.complete("cmpl", "text_completion", *choices)


def _text_deltas(replies: "list[Reply]") -> Iterator[dict[str, object]]:
    for index, reply in enumerate(replies):
        for word in reply.pieces():
            yield {"index": index, "text": word, "finish_reason": None}
        yield {"index": index, "text": "", "finish_reason": reply.finish}


class Reply:
    """The reply to one prompt, in the formats of chat completions and of completions."""

    def __init__(self, request: GenerationRequest, inputs: list[str]) -> None:
        self.others: list[Reply] = []  # Replies to the other prompts of the same request.
        self._request = request
        self._echo = Echo(inputs, request.max_completion_tokens or request.max_tokens)
        self.text, self.pieces = self._echo.text, self._echo.pieces
        self.finish = "length" if self._echo.is_cut else "stop"

    def complete(self, prefix: str, kind: str, *choices: dict[str, object]) -> Answer:
        envelope = self._envelope(prefix, kind)
        return json_answer(envelope | {"choices": choices, "usage": self._usage()})

    def stream(self, prefix: str, kind: str, choices: Iterator[dict[str, object]]) -> Answer:
        envelope = self._envelope(prefix, kind)
        events: list[Any] = [envelope | {"choices": [choice]} for choice in choices]
        if self._request.wants_usage:
            events.append(envelope | {"choices": [], "usage": self._usage()})
        lines = [b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events]
        return stream_answer([*lines, b"data: [DONE]\n\n"])

    def _envelope(self, prefix: str, kind: str) -> dict[str, object]:
        return {
            "id": f"{prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": self._request.model,
        }

    def _usage(self) -> dict[str, int]:
        replies = [self, *self.others]
        prompt = sum(reply._echo.prompt_tokens for reply in replies)
        completion = sum(reply._echo.completion_tokens for reply in replies)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        }


def _embeddings(body: bytes) -> Answer:
    request = msgspec.json.decode(body, type=EmbeddingRequest)
    if not 1 <= request.length <= MAX_DIMENSIONS:
        raise BadRequest(f"`dimensions` must be from 1 to {MAX_DIMENSIONS}.")
    inputs = _inputs(request.input)
    if len(inputs) * request.length > MAX_NUMBERS:
        raise BadRequest(f"`input` times `dimensions` must be at most {MAX_NUMBERS}.")
    data = [
        {"object": "embedding", "index": index, "embedding": _embedding_vector(request, text)}
        for index, text in enumerate(inputs)
    ]
    tokens = count_words(inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_answer({"object": "list", "data": data, "model": request.model, "usage": usage})


def _inputs(value: str | list[str | int | list[int]]) -> list[str]:
    """Each input as text. A list of token numbers is one input, with the numbers as its words."""
    if isinstance(value, str):
        return [value]
    if value and isinstance(value[0], int):
        return [" ".join(map(str, value))]
    return [" ".join(map(str, item)) if isinstance(item, list) else str(item) for item in value]


def _embedding_vector(request: EmbeddingRequest, text: str) -> object:
    """A vector without meaning: the same for the same text, and different for another text."""
    noise = hashlib.shake_256(text.encode()).digest(2 * request.length)
    raw = [number / 32768 for number in struct.unpack(f"<{request.length}h", noise)]
    length = sum(number * number for number in raw) ** 0.5 or 1.0
    vector = [number / length for number in raw]
    if request.encoding_format == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return vector


_ANSWERS = {
    "/chat/completions": _chat,
    "/completions": _completion,
    "/embeddings": _embeddings,
}
