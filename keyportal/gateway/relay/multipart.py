"""A form on its way through: read part by part, judged, and written anew.

Parsers of forms differ on what a boundary, a name or a repeated header means, and whoever finds a
difference can show one form to us and another to the upstream. So nothing of the caller's framing
goes on: the boundary is ours and new each time, and so is every part's head. What stays is what
was read here: names, file names, media types of files, and the bytes within.
"""

import logging
import re
import secrets

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from keyportal.gateway.errors import BadRequest, MissingModel, UnsupportedMediaType

MEDIA_TYPE = b"multipart/form-data"
MAX_PARTS = 100
LONGEST_MODEL = 800  # Bytes: 200 characters of UTF-8, which is what a served name may have.
LONGEST_FILE_NAME = 255

# As OpenAI's clients send them: `timestamp_granularities[]`, `chunking_strategy[type]`.
_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,64}(\[[A-Za-z0-9_.-]{0,64}\]){0,4}")
_VISIBLE = re.compile(rb"[ -~]{1,200}")
# What ends a quoted name in one parser and not in another, or makes a path of it.
_UNSAFE = re.compile(rb'[\x00-\x1f\x7f"\\/]')
_UNCODED = frozenset({b"", b"7bit", b"8bit", b"binary"})

# What is wrong with a form is told to who sent it; the log is not theirs to fill.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


class Form:
    """Give `feed` what comes in; it gives back what goes on, without the model, which is judged.

    Whatever can't be read in one way only raises `BadRequest`.
    """

    def __init__(self, content_type: bytes) -> None:
        media_type, options = parse_options_header(content_type)
        if media_type != MEDIA_TYPE:
            raise UnsupportedMediaType(MEDIA_TYPE)
        self.model = ""
        """The served name; empty until its part has come."""
        self.is_over = False
        # From the system's randomness: a file that held the boundary could add parts of its own.
        self._boundary = secrets.token_hex(16).encode()
        self._parser = _parser(options.get(b"boundary", b""), self)
        self._out = bytearray()
        self._parts = 0
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        self._headers: dict[bytes, bytes] = {}
        self._model: bytearray | None = None
        """The model's part while it is being read."""

    @property
    def content_type(self) -> bytes:
        return MEDIA_TYPE + b"; boundary=" + self._boundary

    @property
    def closing(self) -> bytes:
        return b"--" + self._boundary + b"--\r\n"

    def model_part(self, model: str) -> bytes:
        """The part that names the model, which goes first."""
        return self._head(b'name="model"') + model.encode() + b"\r\n"

    def feed(self, chunk: bytes) -> bytes:
        if self.is_over:
            return b""  # What follows the last boundary is no part of the form.
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise BadRequest("The form can't be read: check its boundary and headers.") from None
        passed = bytes(self._out)
        self._out.clear()
        return passed

    def check_whole(self) -> None:
        if not self.is_over:
            raise BadRequest("The form breaks off: its last boundary is missing.")
        if not self.model:
            raise MissingModel

    def _head(self, disposition: bytes, media_type: bytes = b"") -> bytes:
        head = b"--" + self._boundary + b"\r\nContent-Disposition: form-data; " + disposition
        return head + (b"\r\nContent-Type: " + media_type if media_type else b"") + b"\r\n\r\n"

    # What the parser calls, in the order in which it does.

    def on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise BadRequest(f"The form has more than {MAX_PARTS} parts.")
        self._headers = {}

    def on_header_begin(self) -> None:
        self._header = (bytearray(), bytearray())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header[0].extend(data[start:end])

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header[1].extend(data[start:end])

    def on_header_end(self) -> None:
        name, value = (bytes(half) for half in self._header)
        name = name.strip().lower()
        if name in self._headers:
            raise BadRequest("A part of the form has a header twice.")
        self._headers[name] = value.strip()

    def on_headers_finished(self) -> None:
        name, file_name = self._disposition()
        if self._headers.get(b"content-transfer-encoding", b"").lower() not in _UNCODED:
            raise BadRequest("A part of the form is encoded; send its bytes as they are.")
        if name == b"model":
            self._begin_model(file_name)
        elif re.split(rb"[\[.]", name)[0].lower() == b"model":
            # To some servers `model[]` or `Model` is the model too.
            raise BadRequest("The form has a field that is nearly `model`.")
        elif file_name is None:
            self._out += self._head(b'name="%s"' % name)
        else:
            safe = _UNSAFE.sub(b"_", file_name)[:LONGEST_FILE_NAME]
            disposition = b'name="%s"; filename="%s"' % (name, safe)
            self._out += self._head(disposition, self._media_type())

    def _disposition(self) -> tuple[bytes, bytes | None]:
        kind, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        name = options.get(b"name", b"")
        if kind != b"form-data" or not _NAME.fullmatch(name):
            raise BadRequest("A part of the form has no name, or one that is not plain.")
        return name, options.get(b"filename")

    def _media_type(self) -> bytes:
        media_type = self._headers.get(b"content-type", b"application/octet-stream")
        if not _VISIBLE.fullmatch(media_type) or media_type.lower().startswith(b"multipart/"):
            raise BadRequest("A file in the form has a media type that can't be passed on.")
        return media_type

    def _begin_model(self, file_name: bytes | None) -> None:
        if self.model or file_name is not None:
            raise BadRequest("The form must have one field `model`, which is no file.")
        self._model = bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._model is None:
            self._out += data[start:end]
        else:
            self._model += data[start:end]
            if len(self._model) > LONGEST_MODEL:
                raise BadRequest("The name of the model is too long.")

    def on_part_end(self) -> None:
        if self._model is None:
            self._out += b"\r\n"
            return
        try:
            self.model, self._model = self._model.decode(), None
        except UnicodeDecodeError:
            raise BadRequest("The name of the model is not UTF-8.") from None
        if not self.model:
            raise MissingModel

    def on_end(self) -> None:
        self.is_over = True


def _parser(boundary: bytes, form: Form) -> MultipartParser:
    if not boundary:
        raise BadRequest("The form's Content-Type names no boundary.")
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
