"""The original request, as a proxy describes it in headers, and whether a key may make it.

Each proxy uses headers of its own, and also passes on its caller's headers. Attack: a caller adds a
header that describes a harmless request. So everything that is described must be allowed, and an
added header can only lead to a refusal.
"""

import re

from keyportal.gateway import aliases
from keyportal.gateway.endpoints import ENDPOINTS, KEY_PATH, MODELS_PATH
from keyportal.http.types import Headers, Scope

MODEL_HEADER = b"x-keyportal-model"
# Sent by Traefik and Caddy, by nginx as documented by us, and by nginx in Kubernetes.
_URI_HEADERS = frozenset({b"x-forwarded-uri", b"x-original-uri", b"x-original-url"})
_METHOD_HEADERS = frozenset({b"x-forwarded-method", b"x-original-method"})
_ORIGIN = re.compile(r"https?://[\w.:\[\]-]*", re.IGNORECASE | re.ASCII)
# Attack: the server behind the proxy may resolve dots, double slashes and escapes in another way:
# `/v1/models/../chat/completions` is not a list of models. Only plain paths are recognized, and no
# escape such as `%2f` is decoded.
_PLAIN_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[\w.~:@+-]+)+", re.ASCII)


def models(headers: Headers) -> list[str]:
    """The models that the request calls according to the proxy; empty if it names none."""
    return [value.decode("utf-8", "replace") for name, value in headers if name == MODEL_HEADER]


def paths(scope: Scope, verify_path: str) -> list[str]:
    """Each endpoint's path that the headers describe; an empty text for one that is not plain.

    Envoy appends the path to `verify_path`.
    """
    described = [_path(value) for name, value in scope["headers"] if name in _URI_HEADERS]
    if appended := _appended_path(scope, verify_path):
        described.append(_plain_or_empty(appended))
    return described


def is_allowed(scope: Scope, verify_path: str, kind: str) -> bool:
    """Whether keys for this kind of endpoints (not for all) may make the original request.

    False if the proxy doesn't describe it.
    """
    described = paths(scope, verify_path)
    methods = _methods(scope, verify_path)
    return bool(described) and all(_is_path_allowed(path, kind, methods) for path in described)


def _is_path_allowed(path: str, kind: str, methods: set[str]) -> bool:
    if endpoint := ENDPOINTS.get(path):
        return endpoint.kind == kind and methods <= {"POST"}
    return _is_listing(path) and methods <= {"GET", "HEAD"}


def _is_listing(path: str) -> bool:
    """Every key may read its own data and list the models that it may call."""
    return path in (KEY_PATH, MODELS_PATH) or path.startswith(MODELS_PATH + "/")


def _methods(scope: Scope, verify_path: str) -> set[str]:
    """The methods that the headers describe: nginx itself always sends GET."""
    methods = {
        value.decode("latin-1") for name, value in scope["headers"] if name in _METHOD_HEADERS
    }
    if _appended_path(scope, verify_path):
        methods.add(scope["method"])
    return methods


def _appended_path(scope: Scope, verify_path: str) -> str:
    """The path that the proxy has appended, as it was sent; empty without one."""
    raw_path: bytes = scope["raw_path"]
    appended = raw_path.decode("latin-1").removeprefix(verify_path)
    return appended if appended.strip("/") else ""


def _path(address: bytes) -> str:
    """The path of `/path?query` or `https://host/path?query`.

    Attack: of `/v1/embeddingshttp://x%2f..%2fchat%2fcompletions`, a search for the origin would
    leave `/v1/embeddings`, and nginx would pass the whole path on.
    """
    text = address.decode("latin-1")
    if origin := _ORIGIN.match(text):
        text = text[origin.end() :]
    return _plain_or_empty(text.partition("?")[0])


def _plain_or_empty(path: str) -> str:
    """A plain path, or that of the endpoint that it means. Slashes too many are not plain."""
    if not _PLAIN_PATH.fullmatch(path):
        return ""
    match = aliases.find(path)
    return match.path if match else path
