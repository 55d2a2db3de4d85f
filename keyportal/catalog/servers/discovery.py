"""Reads the list of models of a model server: `GET <base URL>/models`, as OpenAI clients do, or
Ollama's own list if there is none.
"""

import contextlib
import re
from http.client import HTTPException
from urllib.parse import urlencode, urlsplit

import keyportal
from keyportal.catalog.headers import CredentialHeader
from keyportal.catalog.models import BUILT_IN_URL, Upstream
from keyportal.catalog.servers.fetch import fetch
from keyportal.catalog.servers.model_lists import Page, read_page
from keyportal.catalog.tls import tls_context
from keyportal.http.fetch import Reply, reason_of

# Attack: a server that lists a million names fills the catalog, which every worker reads.
MAX_NAMES = 2000
MAX_PAGES = 25


class DiscoveryFailed(Exception):
    """The server returned no list of models. The text says why, for an operator."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status
        """Of its answer; None if it did not answer."""


class NotFound(DiscoveryFailed):
    """The server has no list at this address."""


class BareList(DiscoveryFailed):
    """An array without the object around it: it may be a list of anything, so it is not served."""

    def __init__(self, url: str, ids: list[str]) -> None:
        super().__init__(f"{url} returned a bare list.", 200)
        self.ids = ids


def normalize_base_url(base_url: str) -> str:
    """The base URL as for an OpenAI client. `/v1` is added to a URL without a path."""
    if base_url == BUILT_IN_URL:
        return base_url
    url, mark, query = base_url.strip().partition("?")
    url = url.rstrip("/")
    return f"{url}/v1{mark}{query}" if re.fullmatch(r"\w+://[^/?#]+", url) else url + mark + query


def model_ids(upstream: Upstream) -> list[str]:
    """The ids of the server's models, in its order. Raises `DiscoveryFailed`."""
    if upstream.base_url == BUILT_IN_URL:
        raise DiscoveryFailed("The built-in model server lists no models. Use add_model.")
    path, _, query = upstream.base_url.partition("?")
    url = f"{path}/models"
    page = _first_page(upstream, url, query)
    if page.is_bare:
        raise BareList(url, page.ids)
    ids = page.ids
    for _ in range(MAX_PAGES):
        if len(ids) > MAX_NAMES:
            break
        if not page.next_after:
            return ids
        # Anthropic's servers return 20 ids in a page unless they are asked for more.
        parameters = urlencode({"limit": 1000, "after_id": page.next_after})
        page = _read_page(upstream, url, f"{query}&{parameters}" if query else parameters)
        ids = list(dict.fromkeys([*ids, *page.ids]))
    raise DiscoveryFailed(
        f"{url} lists more than {MAX_NAMES} models. Add those that you need with add_model."
    )


def _first_page(upstream: Upstream, url: str, query: str) -> Page:
    """OpenAI's list, or Ollama's if the server has none."""
    try:
        return _read_page(upstream, url, query)
    except NotFound:
        root = url.removesuffix("/v1/models")
        # Not if the base URL has a longer path: the credential may be only for what is below it.
        if urlsplit(root).path:
            raise
        with contextlib.suppress(DiscoveryFailed):
            return _read_page(upstream, f"{root}/api/tags", query)
        raise


def _read_page(upstream: Upstream, url: str, query: str) -> Page:
    try:
        return read_page(_read(f"{url}?{query}" if query else url, upstream))
    except (OSError, HTTPException) as error:
        reason = escaped(without_secrets(reason_of(error), upstream))
        raise DiscoveryFailed(f"{url} can't be read: {reason}.") from None
    except ValueError:
        raise DiscoveryFailed(f"{url} did not return a list of models.", 200) from None


def _read(url: str, upstream: Upstream) -> bytes:
    reply = send(url, upstream)
    if not 200 <= reply.status < 300:
        failure = NotFound if reply.status == 404 else DiscoveryFailed
        reason = escaped(without_secrets(reply.reason, upstream))
        raise failure(f"{url} answered {reply.status} {reason}.", reply.status)
    return reply.body


def send(
    url: str, upstream: Upstream, *, body: bytes | None = None, seconds: float | None = None
) -> Reply:
    """Ask the server with its credential and headers.

    Raises `CredentialUnreadable`, `OSError` or `http.client.HTTPException`.
    """
    headers = {"accept": "application/json", "user-agent": f"keyportal/{keyportal.__version__}"}
    if body is not None:
        headers["content-type"] = "application/json"
    if is_anthropic(upstream):
        headers["anthropic-version"] = "2023-06-01"  # Without it, Anthropic's servers answer 400.
    headers |= {name.decode(): value.decode() for name, value in upstream.server_headers.usual}
    context = tls_context(upstream.ca_file, upstream.client_certificate_file)
    is_of_team = upstream.team_id is not None
    return fetch(url, headers, context, body=body, seconds=seconds, is_of_team=is_of_team)


def is_anthropic(upstream: Upstream) -> bool:
    return upstream.credential_header == CredentialHeader.X_API_KEY


def without_secrets(text: str, upstream: Upstream) -> str:
    """What a server says. Attack: it repeats our credential, or a header, and a page shows it."""
    secrets = {value.decode() for _, value in upstream.server_headers.usual}
    secrets |= {upstream.credential}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    return text


def escaped(text: str, length: int = 200) -> str:
    """What a server says, for a terminal. Attack: control characters rewrite what is displayed."""
    return repr(text[:length])[1:-1]
