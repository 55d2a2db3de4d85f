"""The JSON body of a call: the few fields that we parse, and the body for the upstream."""

import codecs
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from keyportal.gateway.errors import BadRequest, MissingModel
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.gateway.relay.json_errors import json_error
from keyportal.gateway.relay.json_fields import (
    READ_FIELDS,
    decode_fields,
    refuse_foreign_spellings,
)
from keyportal.gateway.relay.request_body import JSON
from keyportal.gateway.relay.stored_body import DiskBody, MemoryBody, Piece
from keyportal.http.turns import Turns

MAX_OPTIONS_BYTES = 4096
_PIECE_BYTES = 64 * 1024
_COPIED_BYTES = 4096  # A longer value is not copied.
# `extra_body` is read only once, when it is checked.
_KEPT_FIELDS = READ_FIELDS - {"extra_body"}

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_text = msgspec.json.Decoder(str)
_optional_text = msgspec.json.Decoder(str | None)
_options = msgspec.json.Decoder(dict[str, msgspec.Raw] | None)


class CallRequest(NamedTuple):
    """The JSON body of a call: the served model's name, and all fields, whose values stay raw."""

    model: str
    fields: dict[str, msgspec.Raw]
    rest: MemoryBody | DiskBody | None = None
    """The fields of a large body that the gateway doesn't read; they are not in `fields`."""
    rest_tokens: int = 0
    """The estimate for the prompt in `rest`."""

    @property
    def content_type(self) -> bytes:
        return JSON

    def close(self, on_free: Callable[[], None] = lambda: None) -> None:
        """`on_free` is called when no server is sent a large body any more."""
        if self.rest is None:
            on_free()
        else:
            self.rest.close(on_free)

    def stored(self, turns: Turns, rest_tokens: int) -> "CallRequest":
        """The same request, with the fields that the gateway doesn't read in `rest`.

        Raises `BadRequest` for a field that it reads and that is large.
        """
        fields: dict[str, msgspec.Raw] = {}
        pieces: list[Piece] = []
        small = bytearray()
        for name, raw in self.fields.items():
            value = memoryview(raw)
            if name in _KEPT_FIELDS:
                if len(value) > MAX_OPTIONS_BYTES:
                    raise BadRequest(f"`{name}` is larger than {MAX_OPTIONS_BYTES} bytes.")
                fields[name] = raw.copy()
                continue
            small += b"," + msgspec.json.encode(name) + b":"
            if len(value) > _COPIED_BYTES:
                pieces += [bytes(small), value]
                small.clear()
            else:
                small += value
        rest = MemoryBody([*pieces, bytes(small)], turns)
        return CallRequest(self.model, fields, rest, rest_tokens)

    def body_for(self, model: str) -> bytes | StreamedBody:
        """The body for an upstream that calls the model `model`.

        Nested values are passed on unchanged. Attack: with the field `model` twice, a caller could
        have one model checked here and another one used by the upstream. So each name is sent once.
        """
        self.fields["model"] = msgspec.Raw(msgspec.json.encode(model))
        body = msgspec.json.encode(self.fields)
        return body if self.rest is None else self.rest.between(body[:-1], b"}")

    @property
    def is_stored(self) -> bool:
        """Whether the model server may store its answer: it does by default."""
        return self.fields.get("store") != _FALSE

    @property
    def previous_response_id(self) -> str:
        """The answer with which the conversation goes on; empty for none.

        Raises `BadRequest` if it is not a string.
        """
        try:
            return _optional_text.decode(self.fields.get("previous_response_id", _NULL)) or ""
        except msgspec.DecodeError:
            raise BadRequest("`previous_response_id` must be a string.") from None

    def check_stored_answer(self) -> None:
        """Check the fields that matter for an answer that the model server may store.

        Raises `BadRequest` for `"background": true`, and for what a server may take for true: its
        answer comes before the work. Attack: only that first answer's usage would be counted.

        And for a `request_id`, which vLLM and SGLang take for the id of the answer. Attack: a
        caller sends the id of another team's answer, which then counts as one of the caller's team.
        """
        if "request_id" in self.fields:
            raise BadRequest("Leave out `request_id`: the model server gives each answer its id.")
        if self.fields.get("background", _FALSE) not in (_FALSE, _NULL):
            raise BadRequest(
                "Answers in the background are not supported here. Send the request without "
                "`background`, and with `stream` if it takes long."
            )

    def request_usage(self) -> bool:
        """Ask for a usage event at the end of a stream. True if the caller did not ask for it.

        Invalid `stream_options` are passed on, for the upstream to refuse. Raises `BadRequest` if
        `stream` is not a boolean, or `stream_options` could be read in two ways.
        """
        if self.fields.get("stream", _FALSE) not in _BOOLEANS:
            # Attack: a server that accepts 1 or "true" would stream, and send no usage.
            raise BadRequest("`stream` must be true or false.")
        if self.fields.get("stream") != _TRUE:
            return False
        options = self._stream_options()
        if options is None:
            return False
        is_missing = options.get("include_usage") != _TRUE
        if is_missing:
            options["include_usage"] = _TRUE
            self.fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        return is_missing

    def without_usage_request(self) -> "CallRequest":
        """The request as it was before `request_usage`: it asks for no usage."""
        options = self._stream_options() or {}
        options.pop("include_usage", None)
        fields = {name: value for name, value in self.fields.items() if name != "stream_options"}
        if options:
            fields["stream_options"] = msgspec.Raw(msgspec.json.encode(options))
        return self._replace(fields=fields)

    def _stream_options(self) -> dict[str, msgspec.Raw] | None:
        """The fields of `stream_options`; None if it is not an object."""
        raw = self.fields.get("stream_options", _NULL)
        if len(memoryview(raw)) > MAX_OPTIONS_BYTES:
            # Attack: decoding two million fields needs 350 MB and a second.
            raise BadRequest(f"`stream_options` is larger than {MAX_OPTIONS_BYTES} bytes.")
        try:
            options = _options.decode(raw) or {}
        except msgspec.DecodeError:
            return None
        refuse_foreign_spellings(options)
        return options


_TRUE, _FALSE, _NULL = msgspec.Raw(b"true"), msgspec.Raw(b"false"), msgspec.Raw(b"null")
_BOOLEANS = (_TRUE, _FALSE, _NULL)


def parse_call(body: bytes | bytearray, default_model: str = "") -> CallRequest:
    """Parse a JSON body. Without a field `model`, it calls the default model, if there is one.

    Raises `BadRequest` if it is not a JSON object, or if servers could read its fields in different
    ways, and `MissingModel` if it names no model.
    """
    if body.startswith(_BYTE_ORDER_MARK):  # noqa: FURB188 - which would copy any bytearray
        body = body[len(_BYTE_ORDER_MARK) :]
    try:
        # msgspec doesn't check the UTF-8 of raw values, and an upstream must get valid JSON only.
        _check_utf8(body)
        fields = decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise json_error(body, error) from None
    if default_model:
        fields.setdefault("model", msgspec.Raw(msgspec.json.encode(default_model)))
    try:
        model = _text.decode(fields["model"])
    except (KeyError, msgspec.DecodeError):
        raise MissingModel from None
    return CallRequest(model, fields)


def _check_utf8(body: bytes | bytearray) -> None:
    """Raise `UnicodeDecodeError` if the body is no UTF-8.

    Piece by piece: the text of a body with one emoji needs four times the memory of the body.
    """
    if len(body) <= _PIECE_BYTES:
        body.decode()
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(body)
    try:
        for start in range(0, len(body), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            decoder.decode(piece, final=start + len(piece) == len(body))
    except UnicodeDecodeError:
        body.decode()  # For the position in the whole body.
