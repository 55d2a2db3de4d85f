"""Requests as the portal and the management API read them: whatever a header says, it is a request.

Django takes offence at some of what callers may write into Content-Type, Accept and the query,
where no view and no handler of errors could answer yet: that would be a failure of ours in the log,
and a broken connection or an empty answer for whoever asked.
"""

from typing import IO, Any
from urllib.parse import quote_from_bytes

from django.core.handlers.asgi import ASGIRequest
from django.http.request import MediaType
from django.utils.functional import cached_property
from django.utils.http import parse_header_parameters

from keyportal.asgi_types import Scope

ASCII = bytes(range(128))


class Request(ASGIRequest):
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
