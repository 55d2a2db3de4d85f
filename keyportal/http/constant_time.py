"""Constant-time responses: each is sent at the next multiple of INTERVAL_SECONDS after its request.

Attack: a stranger reports a guessed key, or asks for a password reset for a guessed account, and
learns from the response time whether it exists.
"""

import asyncio

from keyportal.http.types import ASGIApp, Message, Receive, Scope, Send

INTERVAL_SECONDS = 0.25  # Many times longer than the work, so nearly every response fits into one.


class ConstantTimeMiddleware:
    """ASGI middleware: delays the response to a POST to a multiple of INTERVAL_SECONDS.

    The delay comes after the application has returned. If it came while the application sends, the
    application would keep its thread and its database connection during the delay, and a few
    strangers who report keys could take many of them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        clock = asyncio.get_running_loop().time
        started_at = clock()
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self.app(scope, receive, collect)
        await asyncio.sleep(INTERVAL_SECONDS - (clock() - started_at) % INTERVAL_SECONDS)
        for message in messages:
            await send(message)
