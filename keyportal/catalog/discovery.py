"""Asking a model server what it serves: `GET <base>/models`, as every OpenAI client does."""

import json
import re
import socket
import time
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from keyportal.catalog.models import BUILT_IN_URL, Upstream, is_link_local

TIMEOUT_SECONDS = 10
MAX_BYTES = 4 * 1024 * 1024


class DiscoveryFailed(Exception):
    """The server gave no list of models; the text says why, to an operator."""


class _NoRedirects(HTTPRedirectHandler):
    """A redirect would carry the server's credential to wherever it points."""

    def redirect_request(self, *args: object) -> None:
        return None


def normalize_base_url(base_url: str) -> str:
    """The base URL as an OpenAI client takes it. With no path, `/v1` is meant."""
    if base_url == BUILT_IN_URL:
        return base_url
    url = base_url.strip().rstrip("/")
    return f"{url}/v1" if re.fullmatch(r"\w+://[^/?#]+", url) else url


def model_ids(upstream: Upstream) -> list[str]:
    """The ids that the server lists, in its order. Raises `DiscoveryFailed`."""
    url = f"{upstream.base_url}/models"
    if upstream.base_url == BUILT_IN_URL:
        raise DiscoveryFailed("The built-in upstream lists no models; use add_model.")
    _refuse_link_local(url)
    try:
        return _ids(json.loads(_read(url, upstream.credential)))
    except HTTPError as error:
        error.close()
        raise DiscoveryFailed(f"{url} answered {error.code} {error.reason}.") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise DiscoveryFailed(f"{url} can't be read: {reason}.") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise DiscoveryFailed(f"{url} did not answer with a list of models.") from None


def _read(url: str, credential: str) -> bytes:
    # No proxy from the environment either: it would see the credential.
    opener = build_opener(ProxyHandler({}), _NoRedirects)
    headers = {"Accept": "application/json", "User-Agent": "keyportal"}
    if credential:
        headers["Authorization"] = f"Bearer {credential}"
    deadline = time.monotonic() + TIMEOUT_SECONDS
    with opener.open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:  # noqa: S310 - the base URL is validated
        return _bounded(response, deadline)


def _bounded(response: HTTPResponse, deadline: float) -> bytes:
    """All of it, if that is little enough and comes in time, however slowly it drips."""
    body = b""
    while block := response.read1(65_536):
        body += block
        if len(body) > MAX_BYTES:
            raise OSError(f"the answer is over {MAX_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"the answer took over {TIMEOUT_SECONDS} seconds")
    return body


def _ids(answer: Any) -> list[str]:
    found = [entry["id"] for entry in answer["data"]]
    if not all(isinstance(id_, str) and id_ for id_ in found):
        raise TypeError
    return list(dict.fromkeys(found))


def _refuse_link_local(url: str) -> None:
    """A name, or an odd spelling of an address, may lead to the clouds' credential server."""
    parts = urlsplit(url)
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DiscoveryFailed(f"{parts.hostname} can't be resolved: {error}.") from None
    if any(is_link_local(str(address[4][0])) for address in found):
        raise DiscoveryFailed(f"{parts.hostname} is a link-local address: no model server.")
