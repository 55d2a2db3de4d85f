"""Django as the portal and the management API run it: what a page needed is free once it is made.

Django gives a request's connection to the database back when the answer has been sent. There are
eight, and how long sending takes, the reader decides: a few who read nothing, and who need not even
sign in, would leave everybody else none.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import close_old_connections
from django.http.response import HttpResponseBase

from keyportal.headed import Request

# As `Send`, whose messages Django doesn't promise to leave as they are.
Sending = Callable[[Mapping[str, Any]], Awaitable[None]]


class Handler(ASGIHandler):
    request_class = Request

    async def send_response(self, response: HttpResponseBase, send: Sending) -> None:
        """What is streamed may still ask the database while it is sent, and keeps its connection.

        Django's own `request_finished` comes after sending, as ever, and finds nothing to close.
        """
        if not response.streaming:
            # In the request's own thread, where its connection is.
            await sync_to_async(close_old_connections)()
        await super().send_response(response, send)
