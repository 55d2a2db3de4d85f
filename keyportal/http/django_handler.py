"""Django as the portal and the management API run it: what a page needed is free once it is made.

Django gives a request's connection to the database back when the answer has been sent. There are
eight, and how long sending takes, the reader decides: a few who read nothing, and who need not even
sign in, would leave everybody else none.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import IO, Any
from urllib.parse import quote_from_bytes

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler, ASGIRequest
from django.db import close_old_connections
from django.http.request import MediaType
from django.http.response import HttpResponseBase
from django.utils.functional import cached_property
from django.utils.http import parse_header_parameters

from keyportal.http.types import Scope

ASCII = bytes(range(128))


class LenientASGIRequest(ASGIRequest):
    def __init__(self, scope: Scope, body_file: IO[bytes]) -> None:
        """Bytes of the query that should have been escaped, and may be no UTF-8, are escaped."""
        query: bytes = scope["query_string"]
        if not query.isascii():
            scope = {**scope, "query_string": quote_from_bytes(query, safe=ASCII).encode()}
        super().__init__(scope, body_file)

    def _set_content_type_params(self, meta: dict[str, Any]) -> None:
        """A type that can't be read is none. Everything here is UTF-8, whatever else is declared:
        Python knows charsets, such as hex, that no text can be read by."""
        try:
            found = parse_header_parameters(meta.get("CONTENT_TYPE", ""))
        except ValueError:
            found = ("", {})
        self.content_type, self.content_params = found

    @cached_property
    def accepted_types(self) -> list[MediaType]:
        """Who can't be understood takes anything."""
        try:
            return super().accepted_types
        except ValueError:
            return [MediaType("*/*")]


# As `Send`, whose messages Django doesn't promise to leave as they are.
Sending = Callable[[Mapping[str, Any]], Awaitable[None]]


class PortalHandler(ASGIHandler):
    request_class = LenientASGIRequest

    async def send_response(self, response: HttpResponseBase, send: Sending) -> None:
        """What is streamed may still ask the database while it is sent, and keeps its connection.

        Django's own `request_finished` comes after sending, as ever, and finds nothing to close.
        """
        if not response.streaming:
            # In the request's own thread, where its connection is.
            await sync_to_async(close_old_connections)()
        await super().send_response(response, send)
