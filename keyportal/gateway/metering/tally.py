"""What a call used: read from the answer as it passes, or estimated where nothing was said.

Model servers tell tokens in three shapes, OpenAI's older and newer one and Anthropic's; a stream
tells them at its end. Nothing else of an answer is read, and nothing of it is kept.
"""

import json
import re
from typing import Any

import msgspec

TAIL = 16 * 1024  # Bytes of a long answer that are looked at again: usage stands at its end.
# What a column holds. A model server that tells more must not keep all others' usage from being
# written.
MOST_TOKENS = 2**31 - 1
BYTES_A_TOKEN = 4  # Of text, roughly, in any language model's vocabulary.

# What the last event of a stream looks like. A client may take it for the end, and call again.
_LAST_EVENT = re.compile(
    rb"^data: ?\[DONE\]|^event: ?(?:message_stop|response\.(?:completed|failed|incomplete))",
    re.MULTILINE,
)
_EVENTS = re.compile(rb".+?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)


class Details(msgspec.Struct):
    cached_tokens: int | None = None


class Usage(msgspec.Struct):
    """The usage object in any of its shapes: what one leaves out, another has."""

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
        """Anthropic counts what came from, or went to, its cache beside the rest; OpenAI within."""
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


class Inner(msgspec.Struct):
    usage: Usage | None = None


class ResponseFields(msgspec.Struct):
    """An answer, or an event of one, as far as it is read."""

    usage: Usage | None = None
    choices: list[msgspec.Raw] | None = None
    response: Inner | None = None
    """OpenAI's newer streams wrap the whole answer in their last event."""
    message: Inner | None = None
    """Anthropic's streams tell the prompt's tokens in their first event."""


_said = msgspec.json.Decoder(ResponseFields)
_usage = msgspec.json.Decoder(Usage)


class TokenCounter:
    """What one call used so far. `part` and `events` see the answer pass."""

    __slots__ = (
        "_does_generate",
        "_is_usage_hidden",
        "_prompt_bytes",
        "_tail",
        "answer_bytes",
        "cached",
        "completion",
        "event_count",
        "is_estimated",
        "is_last",
        "is_reported",
        "prompt",
    )

    def __init__(self) -> None:
        self.prompt = 0
        self.completion = 0
        self.cached = 0
        self.is_reported = False
        self.is_estimated = False
        self.is_last = False
        """The last that a client waits for has been seen."""
        self.event_count = 0
        self.answer_bytes = 0
        self._prompt_bytes = 0
        self._does_generate = False
        self._is_usage_hidden = False
        self._tail = b""

    def asks(self, prompt_bytes: int, *, does_generate: bool, is_usage_hidden: bool) -> None:
        """A call goes out, to something that generates text or doesn't.

        Hidden is usage that we asked the upstream for, and the caller didn't.
        """
        self._prompt_bytes = prompt_bytes
        self._does_generate = does_generate
        self._is_usage_hidden = is_usage_hidden

    def part(self, chunk: bytes) -> bytes:
        """A piece of an answer that is no event stream."""
        self.answer_bytes += len(chunk)
        self._tail = (self._tail + chunk)[-TAIL:] if self._tail else chunk
        return chunk

    def events(self, chunk: bytes) -> bytes:
        """Whole events, of which all come back but the one that the caller didn't ask for."""
        self.answer_bytes += len(chunk)
        self.event_count += chunk.count(b"data:")
        if b'"usage"' in chunk:
            chunk = self._read_events(chunk)
        if _LAST_EVENT.search(chunk):
            self.is_last = True
        return chunk

    def _read_events(self, chunk: bytes) -> bytes:
        passed = [event for event in _EVENTS.findall(chunk) if self._passes(event)]
        return b"".join(passed)

    def _passes(self, event: bytes) -> bool:
        said = _read(event.partition(b"data:")[2]) if b'"usage"' in event else None
        if said is None:
            return True
        if said.message and said.message.usage:
            self._note(said.message.usage)
        final = said.usage or (said.response and said.response.usage)
        if final:
            self._note(final)
            self.is_reported = True
        return not (self._is_usage_hidden and said.usage and said.choices == [])

    def _note(self, usage: Usage) -> None:
        """Counts in a stream only grow, and what one event leaves out another has told."""
        self.prompt = max(self.prompt, min(usage.prompt or 0, MOST_TOKENS))
        self.completion = max(self.completion, min(usage.completion or 0, MOST_TOKENS))
        self.cached = max(self.cached, min(usage.cached, MOST_TOKENS))

    def close(self, *, is_served: bool) -> None:
        """The answer is over, or broken off. What nobody told is estimated, if it was served."""
        if self._tail and (usage := _usage_in(self._tail, is_whole=self._is_whole)):
            self._note(usage)
            self.is_reported = True
        self._tail = b""
        if is_served and not self.is_reported:
            self.is_estimated = True
            self.prompt = self.prompt or self._prompt_bytes // BYTES_A_TOKEN
            if self._does_generate:
                # One event carries about one token.
                spoken = self.event_count or self.answer_bytes // BYTES_A_TOKEN
                self.completion = max(self.completion, spoken)

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    @property
    def _is_whole(self) -> bool:
        return len(self._tail) == self.answer_bytes

    @property
    def tokens_so_far(self) -> int:
        return self.completion or self.event_count


def _read(text: bytes) -> ResponseFields | None:
    try:
        return _said.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def _usage_in(tail: bytes, *, is_whole: bool) -> Usage | None:
    """The usage object of a JSON answer, of which a long one is known by its end alone."""
    found = tail.rfind(b'"usage"')
    if found < 0:
        return None
    if is_whole and (said := _read(tail)):
        return said.usage
    text = tail[found:].partition(b":")[2].decode("utf-8", "replace").lstrip()
    try:
        value: Any = json.JSONDecoder().raw_decode(text)[0]
        return _usage.decode(json.dumps(value).encode()) if isinstance(value, dict) else None
    except (ValueError, msgspec.DecodeError, RecursionError):
        return None
