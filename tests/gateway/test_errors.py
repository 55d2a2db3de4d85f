"""Every error in OpenAI's and Anthropic's formats; the tree in the docstring is complete."""

import json
import pkgutil
import re
from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

from keyportal import gateway
from keyportal.gateway import errors
from keyportal.gateway.authentication import bearer_token
from keyportal.gateway.errors import GatewayError
from keyportal.http.types import Headers
from keyportal.keys import keystring

pytestmark = pytest.mark.any_database

INVALID, SERVER, DENIED = "invalid_request_error", "server_error", "permission_error"
AGAIN = [(b"retry-after", b"1")]
NO_RETRY = (b"x-should-retry", b"false")
NO_KEY = [(b"www-authenticate", b'Bearer realm="keyportal"'), NO_RETRY]
TWO_KEYS = [(b"www-authenticate", b'Bearer realm="keyportal", error="invalid_request"'), NO_RETRY]
BAD_KEY = [(b"www-authenticate", b'Bearer realm="keyportal", error="invalid_token"'), NO_RETRY]

Row = tuple[
    Callable[[], GatewayError], int, str, str, str | None, Headers
]  # class or factory, status, type, code, param, headers
TABLE: list[Row] = [
    (errors.BadRequest, 400, INVALID, "invalid_request", None, []),
    (errors.MissingModel, 400, INVALID, "missing_required_parameter", "model", []),
    (errors.MalformedRequest, 400, INVALID, "malformed_request", None, []),
    (errors.MissingCredentials, 401, INVALID, "invalid_api_key", None, NO_KEY),
    (
        lambda: errors.CredentialsDiffer(["x-api-key", "authorization"]),
        401,
        INVALID,
        "invalid_api_key",
        None,
        TWO_KEYS,
    ),
    (errors.PlaceholderKey, 401, INVALID, "invalid_api_key", None, BAD_KEY),
    (errors.InvalidKey, 401, INVALID, "invalid_api_key", None, BAD_KEY),
    (
        lambda: errors.ModelNotAllowed("public/b", "public/a"),
        403,
        DENIED,
        "model_not_allowed",
        "model",
        [NO_RETRY],
    ),
    (
        lambda: errors.EndpointNotAllowed("embeddings only"),
        403,
        DENIED,
        "endpoint_not_allowed",
        None,
        [NO_RETRY],
    ),
    (
        lambda: errors.AddressNotAllowed("192.0.2.1"),
        403,
        DENIED,
        "address_not_allowed",
        None,
        [NO_RETRY],
    ),
    (errors.ModelNotFound, 404, INVALID, "model_not_found", "model", []),
    (errors.ResponseNotFound, 404, INVALID, "response_not_found", None, []),
    (
        errors.PreviousResponseNotFound,
        404,
        INVALID,
        "previous_response_not_found",
        "previous_response_id",
        [],
    ),
    (errors.UnknownPath, 404, INVALID, "unknown_url", None, []),
    (
        lambda: errors.MethodNotAllowed("POST"),
        405,
        INVALID,
        "method_not_allowed",
        None,
        [(b"allow", b"POST")],
    ),
    (errors.SlowBody, 408, INVALID, "request_timeout", None, []),
    (lambda: errors.BodyTooLarge(99), 413, INVALID, "request_too_large", None, []),
    (errors.AddressTooLong, 414, INVALID, "address_too_long", None, []),
    (errors.UnsupportedMediaType, 415, INVALID, "unsupported_media_type", None, []),
    (
        errors.UnsupportedEncoding,
        415,
        INVALID,
        "unsupported_media_type",
        None,
        [(b"accept-encoding", b"gzip, deflate, zstd")],
    ),
    (
        errors.HTTPSRequired,
        426,
        INVALID,
        "https_required",
        None,
        [(b"upgrade", b"TLS/1.2, HTTP/1.1")],
    ),
    (
        errors.WebSocketRefused,
        426,
        INVALID,
        "websocket_not_supported",
        None,
        [(b"upgrade", b"HTTP/1.1")],
    ),
    (
        lambda: errors.RateLimitExceeded("Too many.", "tokens", 7.2, [(b"x", b"y")]),
        429,
        "tokens",
        "rate_limit_exceeded",
        None,
        [(b"retry-after", b"8"), (b"x", b"y")],
    ),
    (
        lambda: errors.InsufficientQuota("Used up.", [(b"x", b"y")]),
        429,
        "insufficient_quota",
        "insufficient_quota",
        None,
        [(b"x-should-retry", b"false"), (b"x", b"y")],
    ),
    (errors.EndedByAdmin, 499, INVALID, "ended_by_admin", None, []),
    (errors.HeadersTooLarge, 431, INVALID, "headers_too_large", None, []),
    (errors.ClientDisconnected, 499, INVALID, "client_gone", None, []),
    (errors.InternalError, 500, SERVER, "internal_error", None, []),
    (errors.UpstreamFailed, 502, SERVER, "upstream_failed", None, []),
    (errors.UpstreamRefused, 502, SERVER, "upstream_refused", None, [NO_RETRY]),
    (errors.CredentialUnreadable, 502, SERVER, "credential_unreadable", None, [NO_RETRY]),
    (errors.DatabaseUnavailable, 503, SERVER, "database_unavailable", None, AGAIN),
    (errors.Overloaded, 503, SERVER, "overloaded", None, AGAIN),
    (errors.TooManyLargeBodies, 503, SERVER, "overloaded", None, [(b"retry-after", b"5")]),
    (errors.DiskFull, 503, SERVER, "overloaded", None, [(b"retry-after", b"5")]),
    (errors.ShuttingDown, 503, SERVER, "shutting_down", None, AGAIN),
    (errors.UpstreamTimedOut, 504, SERVER, "upstream_timeout", None, []),
    (errors.UpstreamConnectTimeout, 504, SERVER, "upstream_timeout", None, []),
]


@pytest.mark.parametrize(("make", "status", "type_", "code", "param", "headers"), TABLE)
def test_error(
    make: Callable[[], GatewayError],
    status: int,
    type_: str,
    code: str,
    param: str | None,
    headers: Headers,
) -> None:
    error = make()
    assert error.status == status
    assert error.headers == headers
    assert json.loads(error.body()) == {
        "error": {"message": str(error), "type": type_, "param": param, "code": code}
    }
    assert str(error).endswith(".")


ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "request_too_large",
    414: "invalid_request_error",
    415: "invalid_request_error",
    426: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    499: "invalid_request_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "api_error",
}


def test_errors_in_anthropics_format() -> None:
    for row in TABLE:
        error = row[0]()
        assert json.loads(error.body("req_1", is_anthropic=True)) == {
            "type": "error",
            "error": {"type": ANTHROPIC[error.status], "message": str(error)},
            "request_id": "req_1",
        }
        assert error.event("req_1", is_anthropic=True) == (
            b"event: error\ndata: " + error.body("req_1", is_anthropic=True) + b"\n\n"
        )


def test_events_contain_the_bodies() -> None:
    for row in TABLE:
        error = row[0]()
        assert error.event() == b"data: " + error.body() + b"\n\n"
        assert b"\n" not in error.body()


def test_no_401_or_403_is_worth_a_retry() -> None:
    """Claude Code would repeat the call eleven times, for three minutes."""
    refusals = [error for row in TABLE if (error := row[0]()).status in {401, 403}]
    assert len(refusals) > 5
    assert all(NO_RETRY in error.headers for error in refusals)


def test_unknown_model_is_named_if_it_could_be_a_name() -> None:
    assert str(errors.ModelNotFound("public/smal")).startswith(
        "The model public/smal does not exist,"
    )
    key = keystring.generate().text
    assert key not in str(errors.ModelNotFound(key))
    for text in ("", "Tell me a secret", "a\x00b", "\ud800", "ä", "a\n", "x" * 201):
        assert str(errors.ModelNotFound(text)).startswith("The model does not exist,")


def test_messages_name_the_problem() -> None:
    assert "GET /v1/models" in str(errors.ModelNotFound())
    assert "whole, without quotes" in str(errors.InvalidKey())
    twice = errors.CredentialsDiffer(["x-api-key", "x-api-key"])
    assert str(twice).startswith("A header with an API key was sent twice: x-api-key.")
    assert "99 bytes" in str(errors.BodyTooLarge(99))
    assert "POST" in str(errors.MethodNotAllowed("POST"))
    assert str(errors.BadRequest("`dimensions` is odd.")) == "`dimensions` is odd."


def subclasses(parent: type[GatewayError] = GatewayError) -> Iterator[type[GatewayError]]:
    for kind in parent.__subclasses__():
        yield kind
        yield from subclasses(kind)


def test_every_error_is_in_the_table() -> None:
    leaves = {kind for kind in subclasses() if not kind.__subclasses__()}
    shown = {type(row[0]()) for row in TABLE}
    assert leaves <= shown


def tree_lines() -> Iterator[tuple[str, str | None, int | None]]:
    """Each line of the tree as name, parent and status; a child has its parent's status."""
    above: list[tuple[str, int | None]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([ │├└─]*)([A-Z]\w+)(?: +(\d{3}))?(?:  |$)", line):
            indent, name, status = found.groups()
            if not indent:
                continue  # Prose.
            depth = len(indent) // 4 - 1
            above = above[:depth]
            parent, inherited = above[-1] if above else (None, None)
            above.append((name, int(status) if status else inherited))
            yield name, parent, above[-1][1]


def test_tree_has_exactly_the_existing_classes() -> None:
    existing = {
        (kind.__name__, kind.__base__ and kind.__base__.__name__, kind.status)
        for kind in subclasses()
    }
    assert set(tree_lines()) == existing | {("GatewayError", None, None)}


def test_no_error_instance_is_shared() -> None:
    """An instance that is raised again collects tracebacks, and with them whole requests."""
    modules = [
        import_module(f"{gateway.__name__}.{found.name}")
        for found in pkgutil.iter_modules(gateway.__path__)
    ]
    assert len(modules) > 5
    for module in modules:
        assert not [name for name, value in vars(module).items() if isinstance(value, GatewayError)]
    raised = []
    for _ in range(2):
        with pytest.raises(errors.MissingCredentials) as caught:
            bearer_token([])
        raised.append(caught.value)
    assert raised[0] is not raised[1]
