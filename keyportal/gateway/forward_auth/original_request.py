"""What a proxy tells of the request that it holds, and what a key may do of that.

Each proxy tells it in headers of its own, and passes those of its caller along. So whatever is
told at all must be allowed: a caller who adds a header can only lose by it.
"""

import re
from urllib.parse import unquote

from keyportal.gateway.authentication import KEY_PATH, MODELS_PATH
from keyportal.gateway.endpoints import ENDPOINTS
from keyportal.http.types import Headers, Scope

MODEL = b"x-keyportal-model"
# Traefik and Caddy, nginx as we document it, nginx in Kubernetes.
_ADDRESSES = frozenset({b"x-forwarded-uri", b"x-original-uri", b"x-original-url"})
_METHODS = frozenset({b"x-forwarded-method", b"x-original-method"})
_ORIGIN = re.compile(r"https?://[^/]*", re.IGNORECASE)
# The server behind the proxy may read dots, doubled slashes and escapes in another way than we:
# `/v1/models/../chat/completions` is no list of models. What is not plain is nothing we know.
_PLAIN = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[\w.~:@+-]+)+", re.ASCII)


def models(headers: Headers) -> list[str]:
    """The models that the request is said to call; none where nobody says."""
    return [value.decode("utf-8", "replace") for name, value in headers if name == MODEL]


def paths(scope: Scope, ours: str) -> list[str]:
    """Where the request goes, each time that it is told; empty for what is not plain.

    Envoy appends the path to `ours`, the address of this.
    """
    told = [_path(value) for name, value in scope["headers"] if name in _ADDRESSES]
    appended: str = scope["path"].removeprefix(ours)
    if appended.strip("/"):
        told.append(_if_plain(appended))
    return told


def is_open(scope: Scope, ours: str, kind: str) -> bool:
    """Whether keys of this kind (not those for all) may make the request that the proxy holds.

    Not where the proxy doesn't tell which it is.
    """
    told = paths(scope, ours)
    return bool(told) and all(_is_open(path, kind, _methods(scope, ours)) for path in told)


def _is_open(path: str, kind: str, methods: set[str]) -> bool:
    if endpoint := ENDPOINTS.get(path):
        return endpoint.kind == kind and methods <= {"POST"}
    return _is_reading(path) and methods <= {"GET", "HEAD"}


def _is_reading(path: str) -> bool:
    """Every key may look at itself, and at the models that it may call."""
    return path in (KEY_PATH, MODELS_PATH) or path.startswith(MODELS_PATH + "/")


def _methods(scope: Scope, ours: str) -> set[str]:
    """How the request goes, where that is told: nginx asks by GET whatever it holds."""
    told = {value.decode("latin-1") for name, value in scope["headers"] if name in _METHODS}
    if scope["path"].removeprefix(ours).strip("/"):
        told.add(scope["method"])
    return told


def _path(address: bytes) -> str:
    text = _ORIGIN.sub("", address.decode("latin-1"), count=1)
    return _if_plain(unquote(text.partition("?")[0]))


def _if_plain(path: str) -> str:
    return path if _PLAIN.fullmatch(path) else ""
