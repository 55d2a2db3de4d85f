"""Reads a few top-level fields of a JSON object that arrives in chunks, in bounded memory.

Strings and nested values are skipped, mostly by functions of `bytes`, which take a few nanoseconds
for a byte; only the depth of the nesting is kept. Attack: an answer that repeats millions of
brackets or of names such as `"usage"`.
"""

import re
from itertools import accumulate

from keyportal.gateway.metering.reported_usage import Answer, parse_answer

MAX_VALUE_BYTES = 16 * 1024  # Of a field that is read; a larger one is skipped.
MAX_NAME_BYTES = 64
MAX_FIELDS = 10_000  # An object with more fields is not read any further.
BLOCK_BYTES = 16 * 1024  # Of nested values that are skipped at once.
MIN_BLOCK_BYTES = 256
NESTING = 4  # How deeply usage may be nested in itself.

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PLAIN = rb'[^"{}\[\]]++'


def _object(levels: int) -> bytes:
    """A pattern for an object that has at most so many levels of objects in it."""
    inner = b"|" + _object(levels - 1) if levels else b""
    return rb"\{(?:" + _PLAIN + b"|" + _STRING + rb"|\[[^\"{}\[\]]*+\]" + inner + rb")*+\}"


_WANTED = re.compile(
    rb'"(type|usage|meta|service_tier|response|message)"[ \t\r\n]*+:[ \t\r\n]*+(?=[^ ])'
)
_VALUE = re.compile(_object(NESTING) + b"|" + _STRING + rb"|[\w.+-]++(?=[^\w.+-])", re.DOTALL)
_WHOLE_STRING = re.compile(_STRING, re.DOTALL)
_UP_TO_STRUCTURE = re.compile(rb'[^"{}\[\]]*+')
_COLON = re.compile(rb"[ \t\r\n:]*+")
# Up to a bracket of a value that isn't complete in this chunk, or is nested deeper.
_UP_TO_BRACKET = re.compile(
    rb"(?:" + _PLAIN + b"|" + _STRING + rb"|\[[^\"{}\[\]]*+\])*+", re.DOTALL
)
_REST_OF_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_QUOTED = re.compile(rb'"[^"]*+"?')
_UNSTRUCTURED = bytes(set(range(256)) - set(b'"{}[]'))
_STEPS = [(byte in b"{[") - (byte in b"}]") for byte in range(256)]
_QUOTE, _OPENING, _CLOSING = b'"'[0], frozenset(b"{["), frozenset(b"}]")


class FieldReader:
    """Reads the fields of `Answer`, and in an event those of its `response` or `message`."""

    __slots__ = (
        "_counts_items",
        "_depth",
        "_field_count",
        "_is_event",
        "_is_in_string",
        "_level",
        "_rest",
        "_values",
        "is_over",
        "item_count",
    )

    def __init__(self, *, is_event: bool = False, counts_items: bool = False) -> None:
        self.is_over = False
        """The object has ended, or the text is no JSON object."""
        self.item_count = 0
        """Objects in lists that are fields of the object, such as images in `data`; only counted if
        `counts_items`."""
        self._counts_items = counts_items
        self._is_event = is_event
        self._depth = 0
        self._field_count = 0
        self._level = 1
        """The depth at which fields are read; 2 inside `response` or `message`."""
        self._is_in_string = False
        self._rest = b""
        """The beginning of a field that is not complete yet."""
        self._values: dict[bytes, bytes] = {}

    def answer(self) -> Answer:
        """What was found so far."""
        fields = [b'"' + name + b'":' + value for name, value in self._values.items()]
        return parse_answer(b"{" + b",".join(fields) + b"}") or Answer()

    def feed(self, chunk: bytes) -> None:
        data, self._rest = self._rest + chunk, b""
        position = 0
        if self._depth == 0:
            position = len(data) - len(data.lstrip())
            self.is_over = self.is_over or data[position : position + 1] not in {b"{", b""}
        while position < len(data) and not self.is_over:
            if self._is_in_string:
                position = self._skip_string(data, position)
            elif self._depth == self._level:
                position = self._read_field(data, position)
            else:
                position = self._skip_nested(data, position)

    def _skip_string(self, data: bytes, position: int) -> int:
        position = _end(_REST_OF_STRING, data, position)
        if position < len(data) and data[position] == _QUOTE:
            self._is_in_string = False
            return position + 1
        return self._wait(data, position)  # Nothing, or a backslash whose character is missing.

    def _skip_nested(self, data: bytes, position: int) -> int:
        if not self._counts_items and (end := self._skip_block(data, position)):
            return end
        position = _end(_UP_TO_BRACKET, data, position)
        return self._take(data, position) if position < len(data) else position

    def _skip_block(self, data: bytes, position: int) -> int:
        """Skip a block in which the depth stays below that of fields. Returns 0 if it doesn't."""
        # A backslash at the end would be cut off from what it escapes.
        block = data[position : position + BLOCK_BYTES].rstrip(b"\\")
        if len(block) < MIN_BLOCK_BYTES or self._depth == 0:
            return 0
        plain = _ESCAPED.sub(b"", block) if b"\\" in block else block
        # Two quotes beside each other are those of a string without brackets, or the end of one
        # string and the start of the next: without them, the rest is in a string as before.
        structure = plain.translate(None, _UNSTRUCTURED).replace(b'""', b"")
        steps = [_STEPS[byte] for byte in _QUOTED.sub(b"", structure)]
        if self._depth + min(accumulate(steps), default=0) <= self._level:
            return 0
        self._depth += sum(steps)
        self._is_in_string = structure.count(b'"') % 2 == 1
        return position + len(block)

    def _take(self, data: bytes, position: int) -> int:
        """Step over a bracket, or over the quote that begins a string without an end."""
        byte = data[position]
        if byte in _OPENING:
            self.item_count += self._depth == 2
            self._depth += 1
        elif byte in _CLOSING:
            self._depth -= 1
            self._level = min(self._level, max(self._depth, 1))
            self.is_over = self._depth == 0
        else:
            self._is_in_string = True
        return position + 1

    def _read_field(self, data: bytes, position: int) -> int:
        """Step over the next name or value; keep the value of a field that is wanted."""
        self._field_count += 1
        self.is_over = self._field_count > 2 * MAX_FIELDS
        position = _end(_UP_TO_STRUCTURE, data, position)
        if position == len(data):
            return position
        if data[position] != _QUOTE:
            return self._take(data, position)
        if (name := _WANTED.match(data, position)) is not None:
            return self._read_value(name[1], data, position, name.end())
        string = _WHOLE_STRING.match(data, position)
        end = len(data) if string is None else _end(_COLON, data, string.end())
        if end == len(data) and end - position <= MAX_NAME_BYTES:
            return self._wait(data, position)  # It may be the beginning of a wanted name.
        return self._take(data, position) if string is None else string.end()

    def _read_value(self, name: bytes, data: bytes, start: int, position: int) -> int:
        if name in {b"response", b"message"}:
            if self._is_event and self._level == 1 and data[position : position + 1] == b"{":
                self._level = self._depth = 2
                return position + 1
            return position
        if (value := _VALUE.match(data, position)) is not None:
            if name != b"type" or self._level == 1:
                self._values[name] = value[0]
            return value.end()
        if len(data) - start > MAX_VALUE_BYTES or data[position : position + 1] == b"[":
            return position
        return self._wait(data, start)

    def _wait(self, data: bytes, position: int) -> int:
        self._rest = data[position:]
        return len(data)


def _end(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    """Where the match ends; these patterns match always, if only nothing."""
    match = pattern.match(data, position)
    return position if match is None else match.end()
