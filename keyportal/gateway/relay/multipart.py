"""Multipart forms: parsed part by part, checked, and written again for the upstream.

Attack: parsers of forms differ on what a boundary, a name or a repeated header means, so a caller
could build a form that we read in one way and the upstream in another. So the caller's framing is
not passed on: the boundary is ours and random, and the head of each part is written again. Only
what was parsed here is sent: names, file names, media types of files, and the contents.
"""

import logging
import re
import secrets

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from keyportal.gateway.errors import BadRequest, MissingModel, UnsupportedMediaType

MEDIA_TYPE = b"multipart/form-data"
MAX_PARTS = 100
MAX_MODEL_BYTES = 800  # 200 characters of UTF-8, the longest name that a served model may have.
MAX_FILE_NAME_BYTES = 255

# As OpenAI's clients send them: `timestamp_granularities[]`, `chunking_strategy[type]`.
_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,64}(\[[A-Za-z0-9_.-]{0,64}\]){0,4}")
_SINGLE_FIELDS = frozenset({b"model", b"stream"})
_VISIBLE = re.compile(rb"[ -~]{1,200}")
# What ends a quoted name in some parsers only, or makes it a path.
_UNSAFE = re.compile(rb'[\x00-\x1f\x7f"\\/]')
_IDENTITY_ENCODINGS = frozenset({b"", b"7bit", b"8bit", b"binary"})

# The caller gets the parser's errors. Attack: bad forms could fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Form:
    """Rewrites a form. `feed` takes the caller's bytes and returns those for the upstream.

    The part with the model is left out: its name is checked, and `model_part` writes another.
    Whatever parsers could read in different ways raises `BadRequest`.
    """

    def __init__(self, content_type: bytes) -> None:
        media_type, options = parse_options_header(content_type)
        if media_type != MEDIA_TYPE:
            raise UnsupportedMediaType(MEDIA_TYPE)
        self.model = ""
        """The served model's name; empty until its part has been read."""
        self.is_over = False
        # Attack: a file that contains the boundary could add parts. So it can't be predicted.
        self._boundary = secrets.token_hex(16).encode()
        self._parser = _new_parser(options.get(b"boundary", b""), self)
        self._output = bytearray()
        self._part_count = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._model: bytearray | None = None
        """The content of the part `model` while it is being read."""

    @property
    def content_type(self) -> bytes:
        return MEDIA_TYPE + b"; boundary=" + self._boundary

    @property
    def closing_boundary(self) -> bytes:
        return b"--" + self._boundary + b"--\r\n"

    def model_part(self, model: str) -> bytes:
        """The part that names the model. It is sent first."""
        return self._part_head(b'name="model"') + model.encode() + b"\r\n"

    def feed(self, chunk: bytes) -> bytes:
        if self.is_over:
            return b""  # Bytes after the last boundary don't belong to the form.
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise BadRequest("The form can't be read: check its boundary and headers.") from None
        output = bytes(self._output)
        self._output.clear()
        return output

    def check_complete(self, default_model: str = "") -> None:
        """Check that the form is complete. Without a field `model`, it calls the default model."""
        if not self.is_over:
            raise BadRequest("The form is incomplete: its last boundary is missing.")
        self.model = self.model or default_model
        if not self.model:
            raise MissingModel

    def _part_head(self, disposition: bytes, media_type: bytes = b"") -> bytes:
        head = b"--" + self._boundary + b"\r\nContent-Disposition: form-data; " + disposition
        return head + (b"\r\nContent-Type: " + media_type if media_type else b"") + b"\r\n\r\n"

    # Called by the parser, in this order.

    def on_part_begin(self) -> None:
        self._part_count += 1
        if self._part_count > MAX_PARTS:
            raise BadRequest(f"The form has more than {MAX_PARTS} parts.")
        self._headers = {}

    def on_header_begin(self) -> None:
        self._header = (bytearray(), bytearray())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = (bytes(buffer) for buffer in self._header)
        name = name.strip().lower()
        if name in self._headers:
            raise BadRequest("A part of the form repeats a header.")
        self._headers[name] = value.strip()

    def on_headers_finished(self) -> None:
        name, file_name = self._disposition()
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in _IDENTITY_ENCODINGS:
            raise BadRequest(
                "A part of the form has a Content-Transfer-Encoding. Send its bytes unencoded."
            )
        folded = re.split(rb"[\[.]", name)[0].lower()
        if name == b"model":
            self._begin_model(file_name)
        elif folded in _SINGLE_FIELDS and folded != name:
            # Attack: some servers read `model[]` or `Model` as the model.
            raise BadRequest(
                f"The form has a field whose name is too similar to `{folded.decode()}`."
            )
        elif file_name is None:
            self._output += self._part_head(b'name="%s"' % name)
        else:
            safe_name = _UNSAFE.sub(b"_", file_name)[:MAX_FILE_NAME_BYTES]
            disposition = b'name="%s"; filename="%s"' % (name, safe_name)
            self._output += self._part_head(disposition, self._media_type())

    def _disposition(self) -> tuple[bytes, bytes | None]:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if disposition != b"form-data" or not _NAME.fullmatch(name):
            raise BadRequest("A part of the form has no name, or one with unusual characters.")
        return name, options.get(b"filename")

    def _media_type(self) -> bytes:
        media_type = self._headers.get(b"content-type", b"application/octet-stream")
        if not _VISIBLE.fullmatch(media_type) or media_type.lower().startswith(b"multipart/"):
            raise BadRequest("A file in the form has a media type that can't be passed on.")
        return media_type

    def _begin_model(self, file_name: bytes | None) -> None:
        if self.model or file_name is not None:
            raise BadRequest(
                "The form must have exactly one field `model`, and it can't be a file."
            )
        self._model = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._model is None:
            self._output += data[start:end]
        else:
            self._model += data[start:end]
            if len(self._model) > MAX_MODEL_BYTES:
                raise BadRequest("The name of the model is too long.")

    def on_part_end(self) -> None:
        if self._model is None:
            self._output += b"\r\n"
            return
        try:
            self.model, self._model = self._model.decode(), None
        except UnicodeDecodeError:
            raise BadRequest("The name of the model is not UTF-8.") from None
        if not self.model:
            raise MissingModel

    def on_end(self) -> None:
        self.is_over = True


def _new_parser(boundary: bytes, form: Form) -> MultipartParser:
    if not boundary:
        raise BadRequest("The form's Content-Type has no boundary.")
    try:
        return MultipartParser(
            boundary,
            {
                "on_part_begin": form.on_part_begin,
                "on_header_begin": form.on_header_begin,
                "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_headers_finished": form.on_headers_finished,
                "on_part_data": form.on_part_data,
                "on_part_end": form.on_part_end,
                "on_end": form.on_end,
            },
        )
    except FormParserError:
        raise BadRequest("The form's boundary is too long.") from None
