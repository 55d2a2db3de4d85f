"""An upload: a form with a file in it, such as speech to transcribe.

The complete form is written to an unnamed temporary file before any upstream is called. So memory
stays small whatever the form's size, an upstream never gets an incomplete form, and if one fails,
the next gets the same form.
"""

from collections.abc import Callable
from typing import Self

from keyportal.gateway.aliases import DEPLOYMENT
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.gateway.relay.multipart import MEDIA_TYPE, Form
from keyportal.gateway.relay.request_body import (
    BodyReader,
    Reserve,
    open_body,
    reserved_size,
)
from keyportal.gateway.relay.stored_body import DiskBody
from keyportal.http.requests import UNKNOWN
from keyportal.http.turns import Pace, Turns
from keyportal.http.types import Receive, Scope

MAX_MEMORY_BYTES = 256 * 1024  # A larger form is on disk.


class Upload:
    """A form that has arrived completely. Close it when the call is over."""

    def __init__(self, form: Form, turns: Turns) -> None:
        self._form = form
        self._stored = DiskBody(turns, MAX_MEMORY_BYTES)
        self._pace = Pace(turns)

    @classmethod
    async def read(cls, scope: Scope, receive: Receive, reserve: Reserve, turns: Turns) -> Self:
        """Read the whole form. `reserve` waits until it may take so many bytes on disk.

        Raises `BadRequest`, and what `open_body`, the reader's `next_chunk` and
        `DiskBody.write` and `reserve` raise.
        """
        reader = open_body(scope, receive, MEDIA_TYPE)
        upload = cls(Form(dict(scope["headers"])[b"content-type"]), turns)
        try:
            await upload._write(reader, reserve, scope.get(DEPLOYMENT, ""))
        except BaseException:
            upload.close()
            raise
        return upload

    async def _write(self, reader: BodyReader, reserve: Reserve, default_model: str) -> None:
        size, end = MAX_MEMORY_BYTES, 0
        if size < reader.length < UNKNOWN:
            size = int(reader.length)
            await reserve(size)
        while not reader.is_over:
            chunk = await reader.next_chunk()
            end += len(chunk)
            if end > size:
                size = reserved_size(end)
                await reserve(size)
            self._stored.write(self._form.feed(chunk))
            await self._pace.after(len(chunk))
        self._form.check_complete(default_model)
        self._stored.write(self._form.closing_boundary)
        self._stored.complete()

    def close(self, on_free: Callable[[], None] = lambda: None) -> None:
        """`on_free` is called when no server is sent it any more."""
        self._stored.close(on_free)

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
        return self._stored.between(self._form.model_part(model))
