"""Django's ASGI handler for the portal and the management API.

It differs from Django's in two points: a page gives its database connection back before its
response is sent, and headers that Django can't parse don't fail a request.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.db import close_old_connections
from django.http.request import MediaType
from django.http.response import HttpResponseBase
from django.utils.functional import cached_property
from django.utils.http import parse_header_parameters


class LenientASGIRequest(ASGIRequest):
    """Ignores a Content-Type or Accept header that can't be parsed."""

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        """Ignore the declared charset too: every body is read as UTF-8.

        Python knows charsets, such as hex, that can't decode text.
        """
        try:
            parsed = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        except ValueError:
            parsed = ("", {})
        self.content_type, self.content_params = parsed

    @cached_property
    def accepted_types(self) -> list[MediaType]:
        """A header that can't be parsed accepts everything."""
        try:
            return super().accepted_types
        except ValueError:
            return [MediaType("*/*")]


# Like `Send`, but read-only: Django doesn't promise to leave the messages unchanged.
DjangoSend = Callable[[Mapping[str, Any]], Awaitable[None]]


class PortalHandler(ASGIHandler):
    request_class = LenientASGIRequest

    async def send_response(self, response: HttpResponseBase, send: DjangoSend) -> None:
        """Close the database connection before a response is sent, unless it is streamed.

        Django closes it after the response has been sent. Attack: a client that reads slowly, which
        needs no account, keeps a connection as long as it likes. The pool has eight of them.

        A streamed response may still query the database, so it keeps its connection. Django's
        `request_finished` is still sent after the response, and then has nothing to close.
        """
        if not response.streaming:
            # In the thread of the request, which has the connection.
            await sync_to_async(close_old_connections)()
        await super().send_response(response, send)
