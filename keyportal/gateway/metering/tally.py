"""Counts the tokens of a call: read from the answer as it passes, or estimated without a report.

Model servers report usage in three shapes: OpenAI's older and newer one, and Anthropic's. A stream
reports it at its end. Nothing else of an answer is parsed, and nothing of it is stored.
"""

import json
import re
from typing import Any

import msgspec

MAX_TAIL_BYTES = 16 * 1024  # The end of a long answer, which contains its usage.
# The largest value of the database column. A model server that reports more must not make the flush
# fail, which writes the usage of other calls too.
MAX_TOKENS = 2**31 - 1
BYTES_PER_TOKEN = 4  # Roughly, for text in any language model's vocabulary.

# The last event of a stream. A client may take it for the end, and send its next call.
_LAST_EVENT = re.compile(
    rb"^data: ?\[DONE\]|^event: ?(?:message_stop|response\.(?:completed|failed|incomplete))",
    re.MULTILINE,
)
_EVENTS = re.compile(rb".+?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """The usage object in any of its shapes: each shape has some of these fields."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    total_tokens: int | None = None

    @property
    def prompt(self) -> int | None:
        """Prompt tokens, cached ones included.

        Anthropic's `input_tokens` don't include tokens read from or written to the cache; OpenAI's
        `prompt_tokens` do.
        """
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        if self.input_tokens is not None:
            cached = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
            return self.input_tokens + cached
        return self.total_tokens if self.completion is None else None

    @property
    def completion(self) -> int | None:
        return self.completion_tokens if self.completion_tokens is not None else self.output_tokens

    @property
    def cached(self) -> int:
        details = self.prompt_tokens_details or self.input_tokens_details
        return (details and details.cached_tokens) or self.cache_read_input_tokens or 0


class NestedUsage(msgspec.Struct):
    usage: Usage | None = None


class ResponseFields(msgspec.Struct):
    """The fields that are parsed of an answer, or of one of its events."""

    usage: Usage | None = None
    choices: list[msgspec.Raw] | None = None
    response: NestedUsage | None = None
    """The last event of OpenAI's newer streams contains the whole answer."""
    message: NestedUsage | None = None
    """The first event of Anthropic's streams contains the prompt's tokens."""


_response_decoder = msgspec.json.Decoder(ResponseFields)
_usage_decoder = msgspec.json.Decoder(Usage)


class TokenCounter:
    """The tokens of one call so far. `feed` and `feed_events` read the answer as it passes."""

    __slots__ = (
        "_does_generate",
        "_is_usage_hidden",
        "_prompt_bytes",
        "_tail",
        "answer_bytes",
        "cached",
        "completion",
        "event_count",
        "has_last_event",
        "is_estimated",
        "is_reported",
        "prompt",
    )

    def __init__(self) -> None:
        self.prompt = 0
        self.completion = 0
        self.cached = 0
        self.is_reported = False
        self.is_estimated = False
        self.has_last_event = False
        """The event after which a client takes the stream as complete has passed."""
        self.event_count = 0
        self.answer_bytes = 0
        self._prompt_bytes = 0
        self._does_generate = False
        self._is_usage_hidden = False
        self._tail = b""

    def request_sent(
        self, prompt_bytes: int, *, does_generate: bool, is_usage_hidden: bool
    ) -> None:
        """Note a request to an upstream, and whether its endpoint generates text.

        Usage is hidden if the gateway asked the upstream for it and the caller did not.
        """
        self._prompt_bytes = prompt_bytes
        self._does_generate = does_generate
        self._is_usage_hidden = is_usage_hidden

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk of an answer that is not an event stream. Returns it unchanged."""
        self.answer_bytes += len(chunk)
        self._tail = (self._tail + chunk)[-MAX_TAIL_BYTES:] if self._tail else chunk
        return chunk

    def feed_events(self, chunk: bytes) -> bytes:
        """Read complete events. Returns them without the usage event if that is hidden."""
        self.answer_bytes += len(chunk)
        self.event_count += chunk.count(b"data:")
        if b'"usage"' in chunk:
            chunk = self._read_events(chunk)
        if _LAST_EVENT.search(chunk):
            self.has_last_event = True
        return chunk

    def _read_events(self, chunk: bytes) -> bytes:
        return b"".join([event for event in _EVENTS.findall(chunk) if self._read_event(event)])

    def _read_event(self, event: bytes) -> bool:
        """Read the usage in an event, if any. False if the caller must not get the event."""
        fields = _parse(event.partition(b"data:")[2]) if b'"usage"' in event else None
        if fields is None:
            return True
        if fields.message and fields.message.usage:
            self._update(fields.message.usage)
        final = fields.usage or (fields.response and fields.response.usage)
        if final:
            self._update(final)
            self.is_reported = True
        return not (self._is_usage_hidden and fields.usage and fields.choices == [])

    def _update(self, usage: Usage) -> None:
        """Keep the largest counts: they only grow in a stream, and an event may lack some."""
        self.prompt = max(self.prompt, min(usage.prompt or 0, MAX_TOKENS))
        self.completion = max(self.completion, min(usage.completion or 0, MAX_TOKENS))
        self.cached = max(self.cached, min(usage.cached, MAX_TOKENS))

    def close(self, *, is_served: bool) -> None:
        """Finish counting: the answer is complete or broke off.

        Without a report of usage, the tokens of a served call are estimated.
        """
        if self._tail and (usage := _usage_in(self._tail, is_complete=self._is_tail_complete)):
            self._update(usage)
            self.is_reported = True
        self._tail = b""
        if is_served and not self.is_reported:
            self.is_estimated = True
            self.prompt = self.prompt or self._prompt_bytes // BYTES_PER_TOKEN
            if self._does_generate:
                # One event carries about one token.
                estimate = self.event_count or self.answer_bytes // BYTES_PER_TOKEN
                self.completion = max(self.completion, estimate)

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    @property
    def _is_tail_complete(self) -> bool:
        """Whether the tail is the whole answer."""
        return len(self._tail) == self.answer_bytes

    @property
    def tokens_so_far(self) -> int:
        return self.completion or self.event_count


class Uncounted(TokenCounter):
    """Counts no tokens, for an answer that was counted when it was made."""

    __slots__ = ()

    def feed(self, chunk: bytes) -> bytes:
        self.answer_bytes += len(chunk)
        return chunk

    feed_events = feed

    def close(self, *, is_served: bool) -> None:
        """There is nothing to finish."""


def _parse(text: bytes) -> ResponseFields | None:
    try:
        return _response_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _usage_in(tail: bytes, *, is_complete: bool) -> Usage | None:
    """The usage object of a JSON answer, of which only the end may be there."""
    position = tail.rfind(b'"usage"')
    if position < 0:
        return None
    if is_complete and (fields := _parse(tail)):
        return fields.usage
    text = tail[position:].partition(b":")[2].decode("utf-8", "replace").lstrip()
    try:
        value: Any = json.JSONDecoder().raw_decode(text)[0]
        return (
            _usage_decoder.decode(json.dumps(value).encode()) if isinstance(value, dict) else None
        )
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None
