"""Reads the list of models of a model server: `GET <base URL>/models`, as OpenAI clients do."""

import json
import re
from http.client import HTTPException
from typing import Any

import keyportal
from keyportal.catalog.fetch import fetch
from keyportal.catalog.models import BUILT_IN_URL, Upstream
from keyportal.catalog.tls import tls_context


class DiscoveryFailed(Exception):
    """The server returned no list of models. The text says why, for an operator."""


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
    try:
        return _model_ids(json.loads(_read(url, upstream)))
    except (OSError, HTTPException) as error:
        reason = str(error) or type(error).__name__
        raise DiscoveryFailed(f"{url} can't be read: {reason}.") from None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise DiscoveryFailed(f"{url} did not return a list of models.") from None


def _read(url: str, upstream: Upstream) -> bytes:
    headers = {"accept": "application/json", "user-agent": f"keyportal/{keyportal.__version__}"}
    headers |= {name.decode(): value.decode() for name, value in upstream.server_headers.usual}
    reply = fetch(url, headers, tls_context(upstream.ca_file, upstream.client_certificate_file))
    if not 200 <= reply.status < 300:
        raise DiscoveryFailed(f"{url} answered {reply.status} {reply.reason}.")
    return reply.body


def _model_ids(answer: Any) -> list[str]:
    ids = [entry["id"] for entry in answer["data"]]
    if not all(isinstance(id_, str) and id_ for id_ in ids):
        raise TypeError
    return list(dict.fromkeys(ids))
