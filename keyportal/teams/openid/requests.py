"""Requests to identity providers: bounded in time, size and number."""

import ssl
from functools import cache
from http.client import HTTPException
from threading import BoundedSemaphore
from typing import Any
from urllib.parse import urlencode, urlsplit

import msgspec

from keyportal.http.fetch import Reply, fetch, reason_of
from keyportal.teams.openid.configuration import IdentityProvider, is_secure

DISCOVERY_PATH = "/.well-known/openid-configuration"
# Attack: somebody begins many sign-ins while a provider is slow, until no thread is left for pages.
_running = BoundedSemaphore(4)


class ProviderFailed(Exception):
    """The provider did not answer as it should. The text says why, for operators."""


class Metadata(msgspec.Struct):
    """What is used of a provider's discovery document."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    scopes_supported: Any = None
    """Only displayed, so a wrong one stops no sign-in."""


def discovery_url(provider: IdentityProvider) -> str:
    return provider.issuer.rstrip("/") + DISCOVERY_PATH


def discover(provider: IdentityProvider) -> Metadata:
    """The provider's discovery document. Raises `ProviderFailed`."""
    url = discovery_url(provider)
    document = get_json(url)
    try:
        metadata = msgspec.convert(document, Metadata)
    except msgspec.ValidationError as error:
        raise ProviderFailed(f"{url}: {error}") from None
    # Attack: another provider's document, whose tokens would be accepted for this one.
    if metadata.issuer != provider.issuer:
        raise ProviderFailed(f"{url} is of the issuer {metadata.issuer[:200]!r}")
    is_https = urlsplit(provider.issuer).scheme == "https"
    endpoints = [metadata.token_endpoint, metadata.jwks_uri, metadata.userinfo_endpoint]
    for endpoint in (metadata.authorization_endpoint, *endpoints):
        # Attack: a provider elsewhere has us send requests to another server on this machine.
        is_plain = is_https and urlsplit(endpoint).scheme == "http"
        if endpoint and (is_plain or not is_secure(endpoint)):
            text = f"{url} names {endpoint[:200]!r}, which is not https, or has a query"
            raise ProviderFailed(text)
    return metadata


def get_json(url: str, *, token: str = "") -> Any:
    """Get `url`, with a bearer token if there is one. Raises `ProviderFailed`."""
    return _send(url, {"Authorization": f"Bearer {token}"} if token else {})


def post_form(url: str, fields: dict[str, str], headers: dict[str, str]) -> Any:
    """Raises `ProviderFailed`."""
    return _send(url, headers, urlencode(fields).encode())


def refusal_of(url: str, fields: dict[str, str], headers: dict[str, str]) -> str:
    """The `error` of RFC 6749, 5.2 with which `url` answers; else empty. Raises `ProviderFailed`.

    Only to compare it with known ones: it may repeat what was sent.
    """
    reply = _request(url, headers, urlencode(fields).encode())
    try:
        error = msgspec.json.decode(reply.body, type=dict[str, Any]).get("error")
    except (msgspec.DecodeError, RecursionError):
        error = None
    return str(error or ("invalid_client" if reply.status == 401 else ""))


@cache
def _tls() -> ssl.SSLContext:
    """Reading all certificates of the system takes as long as a request."""
    return ssl.create_default_context()


def _send(url: str, headers: dict[str, str], form: bytes | None = None) -> Any:
    reply = _request(url, headers, form)
    if reply.status != 200:
        # Its body may repeat what was sent: a code, or the secret.
        raise ProviderFailed(f"{url} answered with the status {reply.status}")
    try:
        return msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, RecursionError):
        raise ProviderFailed(f"{url} did not answer with JSON") from None


def _request(url: str, headers: dict[str, str], form: bytes | None) -> Reply:
    if form is not None:
        headers = headers | {"Content-Type": "application/x-www-form-urlencoded"}
    if not _running.acquire(blocking=False):
        raise ProviderFailed("too many sign-ins at once")
    try:
        return fetch(url, {"Accept": "application/json", **headers}, _tls(), body=form)
    except (OSError, HTTPException, ValueError) as error:
        # Attack: control characters of a server rewrite the log.
        reason = repr(reason_of(error)[:300])[1:-1]
        raise ProviderFailed(f"{url}: {reason}") from None
    finally:
        _running.release()
