"""One request to a model server, for commands and pages."""

import ssl
from urllib.parse import urlsplit

from django.conf import settings

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
    is_of_team: bool = False,
) -> Reply:
    """As `keyportal.http.fetch.fetch`, but never to a cloud's metadata service, and for a team only
    to addresses that its servers may have.
    """
    host = urlsplit(url).hostname or ""

    def is_forbidden(address: str) -> bool:
        if is_of_team and not settings.TEAM_SERVERS.allows_address(host, address):
            return True
        return is_metadata_address(address)

    return http.fetch(url, headers, context, body=body, seconds=seconds, is_forbidden=is_forbidden)
