"""An upload: a form that goes on to the upstream while it comes in, and is never held in memory.

Whom it is for must be known before it can go anywhere. Clients that send the model first, as
OpenAI's for Python does, have the rest passed on as it comes, no faster than the upstream takes
it. What comes before the model, such as the file of who follows OpenAI's examples for curl, waits
in a file without a name; a form that is whole before it goes on can be sent again to another
upstream.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from tempfile import SpooledTemporaryFile
from typing import Self

from keyportal.asgi_types import Receive, Scope, Send
from keyportal.gateway.body import BODY_SECONDS, GO_ON, Incoming, accept
from keyportal.gateway.connection import Streamed
from keyportal.gateway.errors import GatewayError, InternalError, UpstreamTimedOut
from keyportal.gateway.flight import Call
from keyportal.gateway.multipart import MEDIA_TYPE, Form

IN_MEMORY = 256 * 1024  # Bytes that wait for the model in memory; more of them wait on disk.
BLOCK = 64 * 1024

logger = logging.getLogger(__name__)


class Upload:
    """What one caller uploads. `pump` brings it in while the upstream takes what it gives out."""

    def __init__(self, form: Form, incoming: Incoming) -> None:
        self._form = form
        self._incoming = incoming
        # Written and read in the event loop: the system's cache takes a block in microseconds,
        # and a thread for each would cost more.
        self._early = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 - `close` closes it
        # One piece waits here; whoever brings the next waits until the upstream has taken it.
        self._late: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._is_whole = False

    @classmethod
    async def begin(cls, scope: Scope, receive: Receive, send: Send) -> Self:
        """Read until the model is known. Raises `BadRequest`, and what `Incoming.part` raises."""
        headers = dict(scope["headers"])
        if accept(scope, MEDIA_TYPE):
            await send(GO_ON)
        upload = cls(Form(headers[b"content-type"]), Incoming(receive))
        try:
            await upload._read_early()
        except BaseException:
            upload.close()
            raise
        return upload

    def close(self) -> None:
        self._early.close()

    @property
    def model(self) -> str:
        return self._form.model

    @property
    def can_repeat(self) -> bool:
        return self._is_whole

    def ask_for_usage(self) -> bool:
        return False

    async def _read_early(self) -> None:
        while not self._form.model:
            if (part := await self._incoming.part()) is None:
                self._form.check_whole()
                return
            self._early.write(self._form.feed(part))
        self._is_whole = self._form.is_over

    async def pump(self, call: Call) -> None:
        """Bring in the rest, and end the call if that can't be done."""
        try:
            while (part := await self._incoming.part()) is not None:
                if passed := self._form.feed(part):
                    await self._put(passed)
            self._form.check_whole()
        except GatewayError as error:
            # The upstream never gets the end of it, so it never acts on half of it.
            call.end(error)
        except Exception:
            logger.exception("An upload failed.")
            call.end(InternalError())
        else:
            await self._late.put(None)

    async def _put(self, piece: bytes) -> None:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                await self._late.put(piece)
        except TimeoutError:
            raise UpstreamTimedOut from None  # It takes nothing, and says nothing.

    def addressed_to(self, model: str) -> Streamed:
        first = self._form.model_part(model)
        length = None
        if self._is_whole:
            length = len(first) + self._early.seek(0, os.SEEK_END) + len(self._form.closing)
        return Streamed(self._chunks(first), self._form.content_type, length)

    async def _chunks(self, first: bytes) -> AsyncGenerator[bytes, None]:
        yield first
        at = 0
        # Another upstream, which has failed by now, may still be given the same file.
        while block := self._read_at(at):
            yield block
            at += len(block)
        if not self._is_whole:
            while (piece := await self._late.get()) is not None:
                yield piece
        yield self._form.closing

    def _read_at(self, position: int) -> bytes:
        self._early.seek(position)
        return self._early.read(BLOCK)
