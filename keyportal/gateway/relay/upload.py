"""An upload: a form with a file in it, such as speech to transcribe.

The complete form is written to an unnamed temporary file before any upstream is called. So memory
stays small whatever the form's size, an upstream never gets an incomplete form, and if one fails,
the next gets the same form. The file disappears when it is closed, and also when the worker is
killed.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Self

from keyportal.gateway.aliases import DEPLOYMENT
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.gateway.relay.multipart import MEDIA_TYPE, Form
from keyportal.gateway.relay.request_body import BodyReader, open_body
from keyportal.http.types import Receive, Scope

MAX_MEMORY_BYTES = 256 * 1024  # A larger form is on disk.
BLOCK_BYTES = 64 * 1024


class Upload:
    """A form that has arrived completely. Close it when the call is over."""

    def __init__(self, form: Form) -> None:
        self._form = form
        # Written and read in the event loop: a block takes 0.05 ms in the system's cache, and a
        # thread for each block would cost more.
        self._file = SpooledTemporaryFile(MAX_MEMORY_BYTES)  # noqa: SIM115 - `close` closes it

    @classmethod
    async def read(cls, scope: Scope, receive: Receive) -> Self:
        """Read the whole form.

        Raises `BadRequest`, and what `open_body` and the reader's `next_chunk` raise.
        """
        reader = open_body(scope, receive, MEDIA_TYPE)
        upload = cls(Form(dict(scope["headers"])[b"content-type"]))
        try:
            await upload._write(reader, scope.get(DEPLOYMENT, ""))
        except BaseException:
            upload.close()
            raise
        return upload

    async def _write(self, reader: BodyReader, default_model: str) -> None:
        while not reader.is_over:
            self._file.write(self._form.feed(await reader.next_chunk()))
        self._form.check_complete(default_model)
        self._file.write(self._form.closing_boundary)

    def close(self) -> None:
        self._file.close()

    @property
    def model(self) -> str:
        return self._form.model

    @property
    def content_type(self) -> bytes:
        return self._form.content_type

    def request_usage(self) -> bool:
        return False

    def body_for(self, model: str) -> StreamedBody:
        """The form for an upstream that calls the model `model`."""
        model_part = self._form.model_part(model)
        length = len(model_part) + self._file.seek(0, os.SEEK_END)
        return StreamedBody(self._blocks(model_part), length)

    async def _blocks(self, model_part: bytes) -> AsyncGenerator[bytes, None]:
        yield model_part
        position = 0
        # Each reader has its own position: an upstream that failed may still be reading too.
        while block := self._read_at(position):
            yield block
            position += len(block)
            # Let other calls run, however fast the upstream reads.
            await asyncio.sleep(0)

    def _read_at(self, position: int) -> bytes:
        self._file.seek(position)
        return self._file.read(BLOCK_BYTES)
