"""An upload: a form with a file in it, such as speech to transcribe.

The whole form is written to a file without a name before any upstream is called. So memory stays
small whatever the form's size, an upstream never gets half a form, and when one fails, the next
gets the same form. The file is gone when it is closed, and also when the worker is killed.
"""

import asyncio
import os
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Self

from keyportal.gateway.http_client.messages import Streamed
from keyportal.gateway.relay.json_body import Incoming, accept
from keyportal.gateway.relay.multipart import MEDIA_TYPE, Form
from keyportal.http.types import Receive, Scope

IN_MEMORY = 256 * 1024  # Bytes; a larger form is on disk.
BLOCK = 64 * 1024


class Upload:
    """A form that is here in full. Close it when the call is over."""

    def __init__(self, form: Form) -> None:
        self._form = form
        # Written and read in the event loop: a block takes the system's cache 0.05 ms, and a
        # thread for each block would cost more.
        self._file = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - `close` closes it

    @classmethod
    async def read(cls, scope: Scope, receive: Receive) -> Self:
        """Read the whole form. Raises `BadRequest`, and what `accept` and `Incoming.part` raise."""
        accept(scope, MEDIA_TYPE)
        upload = cls(Form(dict(scope["headers"])[b"content-type"]))
        try:
            await upload._write(Incoming(receive))
        except BaseException:
            upload.close()
            raise
        return upload

    async def _write(self, incoming: Incoming) -> None:
        while (part := await incoming.part()) is not None:
            self._file.write(self._form.feed(part))
        self._form.check_whole()
        self._file.write(self._form.closing)

    def close(self) -> None:
        self._file.close()

    @property
    def model(self) -> str:
        return self._form.model

    @property
    def content_type(self) -> bytes:
        return self._form.content_type

    def ask_for_usage(self) -> bool:
        return False

    def addressed_to(self, model: str) -> Streamed:
        """The form for an upstream that calls the model `model`."""
        first = self._form.model_part(model)
        return Streamed(self._blocks(first), len(first) + self._file.seek(0, os.SEEK_END))

    async def _blocks(self, first: bytes) -> AsyncGenerator[bytes, None]:
        yield first
        position = 0
        # The position is this reader's own: an upstream that failed may still be reading too.
        while block := self._read_at(position):
            yield block
            position += len(block)
            await asyncio.sleep(
                0
            )  # Other calls get their turn, however fast the upstream takes it.

    def _read_at(self, position: int) -> bytes:
        self._file.seek(position)
        return self._file.read(BLOCK)
