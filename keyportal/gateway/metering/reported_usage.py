"""The usage that a model server reports in an answer, in each of the shapes that servers use.

OpenAI has an older and a newer shape, Anthropic a third, and Cohere's reranking a fourth. Each
count is read by itself, so an odd value in one field costs no other field its value.
"""

import re
from typing import Any, NamedTuple, TypeVar, get_args

import msgspec

# The largest value of the database columns. A model server that reports more must not make the
# flush fail, which writes the usage of other calls too.
MAX_TOKENS = 2**31 - 1
_SERVICE_TIER = re.compile(r"[A-Za-z0-9_.-]{1,20}")
T = TypeVar("T", bound=msgspec.Struct)


class TokenDetails(NamedTuple):
    """Parts of the prompt and completion tokens, which have prices of their own.

    `cached_tokens`, `cache_write_tokens` and those that begin with `audio_prompt` and
    `image_prompt` are part of the prompt; `cache_write_1h_tokens` are part of
    `cache_write_tokens`. The others are part of the completion. `images` counts generated images.
    """

    cached_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_prompt_tokens: int = 0
    audio_completion_tokens: int = 0
    image_prompt_tokens: int = 0
    image_completion_tokens: int = 0
    images: int = 0


NO_DETAILS = TokenDetails()


class Details(msgspec.Struct):
    """Details of prompt or completion tokens; each of them has some of these fields."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None
    image_tokens: int | None = None


class CacheCreation(msgspec.Struct):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class Usage(msgspec.Struct):
    """The usage object in any of its shapes: each shape has some of these fields."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: Details | None = None
    completion_tokens_details: Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: Details | None = None
    output_tokens_details: Details | None = None
    input_token_details: Details | None = None
    """So transcriptions spell it."""
    output_token_details: Details | None = None
    cached_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: CacheCreation | None = None
    service_tier: str | None = None

    def prompt(self) -> int | None:
        """Prompt tokens, cached ones included.

        Anthropic's `input_tokens` don't include tokens read from or written to the cache; OpenAI's
        `prompt_tokens` do.
        """
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        if self.input_tokens is not None:
            return self.input_tokens + (self.cache_read_input_tokens or 0) + self._written()
        return self.total_tokens if self.completion() is None else None

    def completion(self) -> int | None:
        """Completion tokens, those of reasoning included.

        Some servers, such as xAI's, report them beside the other completion tokens; this shows in
        the total.
        """
        prompt, completion = self.prompt_tokens, self.completion_tokens
        if completion is None:
            return self.output_tokens
        if prompt is not None and (self.total_tokens or 0) > prompt + completion:
            reasoning = (self.completion_tokens_details or _EMPTY).reasoning_tokens or 0
            if self.total_tokens == prompt + completion + reasoning:
                return completion + reasoning
        return completion

    def is_only_total(self) -> bool:
        return self.total_tokens is not None and (
            self.prompt_tokens is self.input_tokens is self.completion() is None
        )

    def _written(self) -> int:
        """Tokens written to the cache, in Anthropic's shape."""
        if self.cache_creation_input_tokens is None and (parts := self.cache_creation) is not None:
            return (parts.ephemeral_5m_input_tokens or 0) + (parts.ephemeral_1h_input_tokens or 0)
        return self.cache_creation_input_tokens or 0

    def details(self) -> TokenDetails:
        prompt = self.prompt_tokens_details or self.input_tokens_details or self.input_token_details
        completion = (
            self.completion_tokens_details
            or self.output_tokens_details
            or self.output_token_details
        )
        # Some servers add Anthropic's fields to OpenAI's.
        cached = self.cache_read_input_tokens or self.cached_tokens or 0
        written, parts = self._written(), self.cache_creation
        if prompt is None and completion is None and not (cached or written):
            return NO_DETAILS
        prompt, completion = prompt or _EMPTY, completion or _EMPTY
        details = TokenDetails(
            prompt.cached_tokens or cached,
            prompt.cache_write_tokens or written,
            (parts is not None and parts.ephemeral_1h_input_tokens) or 0,
            completion.reasoning_tokens or 0,
            prompt.audio_tokens or 0,
            completion.audio_tokens or 0,
            prompt.image_tokens or 0,
            completion.image_tokens or 0,
        )
        if min(details) < 0 or max(details) > MAX_TOKENS:
            return TokenDetails(*map(clamp, details))
        return details


_EMPTY = Details()


class Meta(msgspec.Struct):
    """Cohere's `meta` in an answer to a reranking: what was used, and what of it is billed."""

    tokens: Usage | None = None
    billed_units: Usage | None = None


class Choice(msgspec.Struct):
    """A choice in an event of OpenAI's streams."""

    delta: dict[str, object] | None = None
    text: str | None = None
    finish_reason: str | None = None

    @property
    def has_content(self) -> bool:
        return bool(self.finish_reason or self.text or any((self.delta or {}).values()))


class Answer(msgspec.Struct):
    """The fields that are parsed of an answer: those at its top level only.

    Attack: a caller sends `"usage": {...}` in a document or a tool's schema that the answer
    repeats. So usage that is nested anywhere else is never read.
    """

    type: str | None = None
    usage: Usage | None = None
    meta: Meta | None = None
    service_tier: str | None = None


class Event(Answer):
    """The fields that are parsed of an event of a stream."""

    choices: msgspec.Raw = msgspec.Raw(b"null")
    error: object = None
    response: Answer | None = None
    """The last event of OpenAI's newer streams contains the whole answer."""
    message: Answer | None = None
    """The first event of Anthropic's streams contains the prompt's tokens."""

    @property
    def is_empty(self) -> bool:
        """Whether it adds nothing to the answer of one of OpenAI's older streams."""
        if self.type is not None:
            return False
        try:
            choices = _choices.decode(self.choices)
        except (msgspec.DecodeError, RecursionError):
            return False
        return not any(choice.has_content for choice in choices or ())


_answers = msgspec.json.Decoder(Answer, strict=False)  # Takes `12.0` and `"12"` as 12.
_events = msgspec.json.Decoder(Event, strict=False)
_choices = msgspec.json.Decoder(list[Choice] | None)
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])


def parse_answer(text: bytes) -> Answer | None:
    """The fields of a complete answer; None if it is not a JSON object."""
    try:
        return _answers.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return _read_each(text, Answer)


def decode_event(text: bytes) -> Event | None:
    """The fields of an event's data; None if it isn't JSON or a field has an odd type."""
    try:
        return _events.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None


def parse_event(text: bytes) -> Event | None:
    """The fields of an event's data without those of odd types; None if it isn't JSON."""
    return decode_event(text) or _read_each(text, Event)


def _read_each(text: bytes, kind: type[T]) -> T | None:
    """Decode each field by itself, and leave out those that have another type than expected."""
    try:
        values = _fields.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    found = {
        field.name: _read_value(values[field.name], field.type)
        for field in msgspec.structs.fields(kind)
        if field.name in values
    }
    return kind(**found)


def _read_value(text: msgspec.Raw, expected: Any) -> Any:
    try:
        return msgspec.json.decode(text, type=expected, strict=False)
    except (msgspec.DecodeError, RecursionError):
        kinds = [each for each in get_args(expected) if _is_struct(each)]
        return _read_each(bytes(text), kinds[0]) if kinds else None


def _is_struct(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, msgspec.Struct)


def clamp(count: int) -> int:
    return max(0, min(count, MAX_TOKENS))


def clean_tier(name: str) -> str:
    """The name of a service tier as it may be stored; empty if it is none."""
    return name if _SERVICE_TIER.fullmatch(name) else ""
