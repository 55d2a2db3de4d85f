"""Answers whose time tells nothing: each goes out at the end of a stretch of equal length."""

import asyncio

from keyportal.http.types import ASGIApp, Message, Receive, Scope, Send

INTERVAL_SECONDS = 0.25  # Many times what the work takes, so that nearly all fits into the first.


class ConstantTimeMiddleware:
    """ASGI middleware: lets the answer to a POST wait, so that quick and slow ones look alike.

    It waits here and not on its way out of the application, which until then keeps its thread and
    whatever else it has for the request: a few strangers who report would have many of them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        began = clock()
        answer: list[Message] = []

        async def keep(message: Message) -> None:
            answer.append(message)

        await self.app(scope, receive, keep)
        await asyncio.sleep(INTERVAL_SECONDS - (clock() - began) % INTERVAL_SECONDS)
        for message in answer:
            await send(message)
