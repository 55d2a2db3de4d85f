"""Reads the list of models of a model server: `GET <base URL>/models`, as OpenAI clients do."""

import json
import re
import socket
import time
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.models import BUILT_IN_URL, Upstream, is_link_local

TIMEOUT_SECONDS = 10
MAX_BYTES = 4 * 1024 * 1024


class DiscoveryFailed(Exception):
    """The server returned no list of models. The text says why, for an operator."""


class _NoRedirects(HTTPRedirectHandler):
    """Attack: a redirect sends the server's credential to another server."""

    def redirect_request(self, *args: object) -> None:
        return None


def normalize_base_url(base_url: str) -> str:
    """The base URL as for an OpenAI client. `/v1` is added to a URL without a path."""
    if base_url == BUILT_IN_URL:
        return base_url
    url, mark, query = base_url.strip().partition("?")
    url = url.rstrip("/")
    return f"{url}/v1{mark}{query}" if re.fullmatch(r"\w+://[^/?#]+", url) else url + mark + query


def model_ids(upstream: Upstream) -> list[str]:
    """The ids of the server's models, in its order. Raises `DiscoveryFailed`."""
    base_url, mark, query = upstream.base_url.partition("?")
    url = f"{base_url}/models{mark}{query}"
    if upstream.base_url == BUILT_IN_URL:
        raise DiscoveryFailed("The built-in model server lists no models. Use add_model.")
    _refuse_link_local(url)
    try:
        return _model_ids(json.loads(_read(url, upstream.server_headers)))
    except HTTPError as error:
        error.close()
        raise DiscoveryFailed(f"{url} answered {error.code} {error.reason}.") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DiscoveryFailed(f"{url} can't be read: {reason}.") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise DiscoveryFailed(f"{url} did not return a list of models.") from None


def _read(url: str, server_headers: ServerHeaders) -> bytes:
    # No proxy from the environment, because it would see the credential.
    opener = build_opener(ProxyHandler({}), _NoRedirects)
    headers = {"accept": "application/json", "user-agent": "keyportal"}
    headers |= {name.decode(): value.decode() for name, value in server_headers.usual}
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with opener.open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - the base URL is validated
        return _read_limited(response, deadline)


def _read_limited(response: HTTPResponse, deadline: float) -> bytes:
    """The whole body. Raises `OSError` if it is too large or not complete by `deadline`."""
    body = b""
    while block := response.read1(65_536):
        body += block
        if len(body) > MAX_BYTES:
            raise OSError(f"the answer is over {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer took over {TIMEOUT_SECONDS} seconds")
    return body


def _model_ids(answer: Any) -> list[str]:
    ids = [entry["id"] for entry in answer["data"]]
    if not all(isinstance(id_, str) and id_ for id_ in ids):
        raise TypeError
    return list(dict.fromkeys(ids))


def _refuse_link_local(url: str) -> None:
    """Attack: a name, or an odd spelling of an address, leads to a cloud's credential server."""
    parts = urlsplit(url)
    try:
        rows = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DiscoveryFailed(f"{parts.hostname} can't be resolved: {error}.") from None
    if any(is_link_local(str(row[4][0])) for row in rows):
        raise DiscoveryFailed(
            f"{parts.hostname} is a link-local address, which is never a model server."
        )
