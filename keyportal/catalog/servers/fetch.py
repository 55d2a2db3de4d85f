"""One request to a model server, for commands and pages."""

import ssl

from keyportal.catalog.addresses import is_metadata_address
from keyportal.http import fetch as http
from keyportal.http.fetch import Reply


def fetch(
    url: str,
    headers: dict[str, str],
    context: ssl.SSLContext,
    *,
    body: bytes | None = None,
    seconds: float | None = None,
) -> Reply:
    """As `keyportal.http.fetch.fetch`, but never to a cloud's metadata service."""
    return http.fetch(
        url, headers, context, body=body, seconds=seconds, is_forbidden=is_metadata_address
    )
