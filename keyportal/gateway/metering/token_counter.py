"""Counts the tokens of a call: read from the answer as it passes, or estimated without a report.

Only the reported usage is parsed of an answer, and nothing of it is stored.
"""

import re

from keyportal.gateway.metering import estimates
from keyportal.gateway.metering.field_reader import FieldReader
from keyportal.gateway.metering.reported_usage import (
    MAX_TOKENS,
    NO_DETAILS,
    Answer,
    Event,
    TokenDetails,
    Usage,
    clamp,
    clean_tier,
    decode_event,
    parse_answer,
    parse_event,
)

MAX_KEPT_BYTES = 64 * 1024  # Of an answer that arrives in several chunks.
LARGE_CHUNK_BYTES = 8 * 1024
SAMPLE_CHUNKS = 32  # Of a stream, from which the length of its text is estimated.

EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
# Lines that aren't empty, and the empty line that ends the event.
_EVENTS = re.compile(rb"(?:[^\r\n]++(?:\r\n|\n|\r|\Z))*+(?:\r\n|\n|\r)?+")
_DATA_LINES = re.compile(rb"(?<![^\r\n])data:([^\r\n]*+)")
# The last event of a stream, after which a client may send its next call; and an error.
_MARKED_EVENT = re.compile(
    rb"(?<![^\r\n])(?:data: ?\[DONE\]"
    rb"|event: ?(message_stop|error|response\.(?:completed|failed|incomplete))[ \t]*+(?=[\r\n]))"
)
_LAST_EVENTS = frozenset(
    {"message_stop", "response.completed", "response.failed", "response.incomplete"}
)
_ERROR_EVENTS = frozenset({"error", "response.failed"})
_IMAGE_EVENTS = frozenset({"image_generation.completed", "image_edit.completed"})


class TokenCounter:
    """The tokens of one call so far. `feed` and `feed_events` read the answer as it passes."""

    # The values of a new object are the class's own, because there is one for each call.
    prompt = 0
    completion = 0
    details: TokenDetails = NO_DETAILS
    service_tier = ""
    is_reported = False
    is_estimated = False
    was_sent = False
    """The prompt has reached an upstream, and was not refused by it."""
    has_last_event = False
    """The event after which a client takes the stream as complete has passed."""
    has_error_event = False
    """The upstream has reported a failure in the stream."""
    event_count = 0
    answer_bytes = 0
    _prompt_estimate = 0
    _does_generate = False
    _makes_images = False
    _is_usage_hidden = False
    _is_only_total = False
    """The upstream reported the sum of prompt and completion only; it is in `prompt`."""
    _kept: bytes | bytearray = b""
    """The answer so far, unless it is a stream or long."""
    _reader: FieldReader | None = None
    """Reads a long answer, or an event that is too long to be buffered."""
    _sample: list[bytes] | None = None
    _long_event_count = 0
    _text_bytes = 0
    """Of a long answer, or of the long events of a stream."""
    _media_count = 0

    def expect_answer(
        self,
        prompt_estimate: int,
        *,
        does_generate: bool,
        makes_images: bool = False,
        is_usage_hidden: bool = False,
    ) -> None:
        """Note what is about to be sent, and what kind of answer its endpoint has.

        Usage is hidden if the gateway asked the upstream for it and the caller did not.
        """
        self._prompt_estimate = prompt_estimate
        self._does_generate = does_generate
        self._makes_images = makes_images
        self._is_usage_hidden = is_usage_hidden

    def prompt_sent(self) -> None:
        """Note that the prompt reaches an upstream: it counts even without an answer."""
        self.was_sent = True

    def prompt_refused(self) -> None:
        """Note that the upstream has answered with an error."""
        self.was_sent = False

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk of an answer that is not an event stream. Returns it unchanged."""
        self.answer_bytes += len(chunk)
        if self._reader is not None:
            self._scan(chunk)
        elif not self._kept:
            self._kept = chunk
        elif len(self._kept) + len(chunk) > MAX_KEPT_BYTES:
            self._reader = FieldReader(counts_items=self._makes_images)
            kept, self._kept = bytes(self._kept), b""
            self._scan(kept)
            self._scan(chunk)
        else:
            if isinstance(self._kept, bytes):
                self._kept = bytearray(self._kept)
            self._kept += chunk
        return chunk

    def _scan(self, chunk: bytes) -> None:
        assert self._reader is not None  # noqa: S101 - for the type checker
        self._reader.feed(chunk)
        size, media_count = estimates.without_media(chunk)
        self._text_bytes += size
        self._media_count += media_count

    def feed_events(self, chunk: bytes) -> bytes:
        """Read complete events. Returns them without the usage event if that is hidden."""
        self.answer_bytes += len(chunk)
        event_count = chunk.count(b"data:")
        self.event_count += event_count
        end = len(chunk)
        if end > LARGE_CHUNK_BYTES or self._reader is not None:
            end = self._read_large(chunk, event_count)
        elif self._sample is None:
            self._sample = [chunk]
        elif len(self._sample) < SAMPLE_CHUNKS:
            self._sample.append(chunk)
        name_count = chunk.count(b"event:")
        # Most chunks are one event, and begin with its name.
        if name_count == event_count == 1 and chunk.startswith(b"event:"):
            self._mark(_MARKED_EVENT.match(chunk, 0, end))
        elif name_count or b"[DONE]" in chunk:
            for match in _MARKED_EVENT.finditer(chunk, 0, end if name_count else len(chunk)):
                self._mark(match)
        # Where events have names, an error has the name `error`.
        if b'"usage"' in chunk or (not name_count and b'"error"' in chunk):
            chunk = self._read_events(chunk, event_count)
        return chunk

    def _mark(self, match: re.Match[bytes] | None) -> None:
        if match is not None:
            self._note_type((match[1] or b"message_stop").decode())

    def _note_type(self, event_type: str) -> None:
        self.has_last_event = self.has_last_event or event_type in _LAST_EVENTS
        self.has_error_event = self.has_error_event or event_type in _ERROR_EVENTS
        if event_type in _IMAGE_EVENTS:
            self.details = self.details._replace(images=self.details.images + 1)

    def _read_large(self, chunk: bytes, event_count: int) -> int:
        """Read a chunk of many events, or of a few long ones, and return where the complete ones
        end. The name of an incomplete one doesn't count yet: its usage is still to come."""
        size, media_count = estimates.without_media(chunk)
        self._media_count += media_count
        if len(chunk) > event_count * LARGE_CHUNK_BYTES:
            self._long_event_count += event_count
            self._text_bytes += estimates.text_bytes(chunk) if event_count else size
        elif self._sample is None:
            self._sample = [chunk[:LARGE_CHUNK_BYTES]]
        begin = 0
        if self._reader is not None:
            ends = [at + len(end) for end in EVENT_ENDS if (at := chunk.find(end)) >= 0]
            begin = min(ends, default=len(chunk))
            self._reader.feed(chunk[:begin])
            if not ends:
                return 0
            self._use_long_event()
        if chunk.endswith(EVENT_ENDS):
            return len(chunk)
        ends = [at + len(end) for end in EVENT_ENDS if (at := chunk.rfind(end, begin)) >= 0]
        begin = max(ends, default=begin)
        self._reader = FieldReader(is_event=True)
        self._reader.feed(b"\n".join(_DATA_LINES.findall(chunk, begin)))
        return begin

    def _use_long_event(self) -> None:
        if self._reader is not None:
            answer, self._reader = self._reader.answer(), None
            self._use(answer)
            self._note_type(answer.type or "")

    def _read_events(self, chunk: bytes, event_count: int) -> bytes:
        if event_count == 1 and self._read_event(chunk):
            return chunk
        return b"".join([event for event in _EVENTS.findall(chunk) if self._read_event(event)])

    def _read_event(self, event: bytes) -> bool:
        """Read the usage in an event, if any. False if the caller must not get the event."""
        if b'"usage"' not in event and b'"error"' not in event:
            return True
        fields = decode_event(event.partition(b"data:")[2])
        if fields is None:  # Its data is on several lines, or a field follows it, or is odd.
            fields = parse_event(b"\n".join(_DATA_LINES.findall(event)))
        return fields is None or self._use_event(fields)

    def _use_event(self, fields: Event) -> bool:
        if fields.message is not None and fields.message.usage is not None:
            self._update(fields.message.usage)  # The prompt's; the completion is not known yet.
        self._use(fields if fields.response is None else fields.response)
        if fields.type is not None:
            self._note_type(fields.type)
        if fields.error:
            self.has_error_event = True
            return True
        return not (self._is_usage_hidden and fields.usage is not None and fields.is_empty)

    def _use(self, answer: Answer) -> None:
        """Count the usage of an answer, or of the last event of a stream."""
        usage = answer.usage
        if usage is None and answer.meta is not None:
            usage = answer.meta.tokens or answer.meta.billed_units
        if usage is not None and self._update(usage):
            self.is_reported = True
            self._is_only_total = usage.is_only_total()
        if answer.service_tier is not None:
            self.service_tier = clean_tier(answer.service_tier)

    def _update(self, usage: Usage) -> bool:
        """Keep the largest counts: they only grow in a stream, and an event may lack some.

        False if there are none.
        """
        prompt, completion = usage.prompt(), usage.completion()
        if prompt is not None and prompt > self.prompt:
            self.prompt = min(prompt, MAX_TOKENS)
        if completion is not None and completion > self.completion:
            self.completion = min(completion, MAX_TOKENS)
        if (details := usage.details()) is not NO_DETAILS:
            self.details = (
                details
                if self.details is NO_DETAILS
                else TokenDetails(*map(max, self.details, details))
            )
        if usage.service_tier is not None:
            self.service_tier = clean_tier(usage.service_tier)
        return prompt is not None or completion is not None

    def close(self, *, is_served: bool) -> None:
        """Finish counting: the answer is complete or broke off.

        What wasn't reported of a served call is estimated. Of a call without an answer, the prompt
        is, if it has reached an upstream. Attack: a client hangs up before each answer, to use a
        model without being counted.
        """
        if self._kept:
            self._kept = bytes(self._kept)
            self._use(self._read_kept(self._kept))
        elif self.event_count:
            self._use_long_event()
        elif self._reader is not None:
            self._use(self._reader.answer())
            self._count_images(self._reader)
        is_complete = self.is_reported and self.prompt and self.completion
        if not is_complete and (is_served or self.was_sent):
            self._estimate(is_served=is_served)
        self._kept, self._reader, self._sample = b"", None, None

    def _read_kept(self, kept: bytes) -> Answer:
        answer = parse_answer(kept)
        if answer is None or self._makes_images:
            reader = FieldReader(counts_items=self._makes_images)
            reader.feed(kept)
            self._count_images(reader)
            answer = answer or reader.answer()  # The beginning of an answer that broke off.
        return answer

    def _count_images(self, reader: FieldReader) -> None:
        if self._makes_images:
            self.details = self.details._replace(images=clamp(reader.item_count))

    def _estimate(self, *, is_served: bool) -> None:
        """Fill in what was not reported, and zeros that can't be right.

        Zeros are right if the answer has no text.
        """
        generated = 0
        if is_served and self._does_generate and not self._is_only_total:
            generated = self._estimate_completion()
        reported = (self.prompt, self.completion)
        if not self.is_reported or generated or self.completion or not self._does_generate:
            self.prompt = self.prompt or self._prompt_estimate
        if not (self.is_reported and self.completion):
            self.completion = max(self.completion, generated)
        is_changed = (self.prompt, self.completion) != reported
        self.is_estimated = self.total > 0 and (is_changed or not self.is_reported)

    def _estimate_completion(self) -> int:
        """By the bytes of the text, without what frames it; in a long stream from a sample."""
        size: float = self._text_bytes
        if self._kept:
            kept = bytes(self._kept)
            size = estimates.text_bytes_of_answer(kept)
            self._media_count = estimates.without_media(kept)[1]
        elif self._sample:
            sample = b"".join(self._sample)
            per_event = estimates.text_bytes(sample) / max(sample.count(b"data:"), 1)
            size += per_event * (self.event_count - self._long_event_count)
        tokens = estimates.tokens_of_text(size) + self._media_count * estimates.MEDIA_TOKENS
        return clamp(tokens)

    @property
    def total(self) -> int:
        return self.prompt + self.completion

    @property
    def prompt_so_far(self) -> int:
        return self.prompt or (self._prompt_estimate if self.was_sent else 0)

    @property
    def tokens_so_far(self) -> int:
        return self.completion or self.event_count


class Uncounted(TokenCounter):
    """Counts no tokens, for an answer that was counted when it was made."""

    def feed(self, chunk: bytes) -> bytes:
        self.answer_bytes += len(chunk)
        return chunk

    feed_events = feed

    def close(self, *, is_served: bool) -> None:
        """There is nothing to finish."""
