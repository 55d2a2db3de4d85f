"""Answers whose time tells nothing: each goes out at the end of a stretch of equal length."""

import asyncio

from keyportal.asgi_types import ASGIApp, Message, Receive, Scope, Send

STRETCH_SECONDS = 0.25  # Many times what the work takes, so that nearly all fits into the first.


class Even:
    """ASGI middleware: lets the answer to a POST wait, so that quick and slow ones look alike."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()

        async def evenly(message: Message) -> None:
            if message["type"] == "http.response.start":
                await asyncio.sleep(STRETCH_SECONDS - (clock() - began) % STRETCH_SECONDS)
            await send(message)

        await self.app(scope, receive, evenly if scope["method"] == "POST" else send)
