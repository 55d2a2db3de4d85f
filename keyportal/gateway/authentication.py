"""Authentication: reads the bearer token of a request, and admits the request or refuses it."""

import re

from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.endpoints import ENDPOINTS, KEY_PATH, MODELS_PATH
from keyportal.gateway.errors import (
    AddressNotAllowed,
    CredentialsDiffer,
    InvalidKey,
    MissingCredentials,
    PlaceholderKey,
    WebSocketRefused,
)
from keyportal.gateway.metering.meter import Meter
from keyportal.http.types import ASGIApp, Headers, Receive, Scope, Send
from keyportal.keys import keystring


class BearerAuthMiddleware:
    """ASGI middleware: admits a request with a valid key, or raises a `GatewayError`.

    An admitted request has `scope["keyportal.call"]`, and is active until the application returns.
    """

    def __init__(
        self, app: ASGIApp, admission: Admission, active_calls: ActiveCalls, meter: Meter
    ) -> None:
        self.app = app
        self.admission = admission
        self.active_calls = active_calls
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" and _wants_websocket(scope["headers"]):
            # Before the key is asked: it would be counted as a call. A browser can't send one here.
            raise WebSocketRefused
        token = bearer_token(scope["headers"])
        digest = keystring.digest(token)
        is_counted = _is_counted(scope)
        client = scope.get("client")
        try:
            admitted = await self.admission.admit(
                digest, client[0] if client else "", is_counted=is_counted
            )
        except AddressNotAllowed:
            # Attack: a stolen key is tried from another network. The alarm counts it.
            self.meter.record_refusal(digest, keystring.public_id_of(token))
            raise
        if admitted is None:
            self.meter.record_refusal(digest, keystring.public_id_of(token))
            raise InvalidKey
        call = Call(digest, admitted, scope, self.admission)
        scope["keyportal.call"] = call
        self.meter.record_use(call)
        try:
            with self.active_calls.track(call):
                await self.app(scope, receive, send)
        except BaseException as error:
            call.record_error(error)
            raise
        finally:
            try:
                await call.complete()
            finally:
                if is_counted:
                    self.meter.record_call(call)
                else:
                    self.meter.record_lookup(call)


def _wants_websocket(headers: Headers) -> bool:
    """Whether this is the request that opens a WebSocket, as for `/v1/realtime`."""
    return any(name == b"upgrade" and value.lower() == b"websocket" for name, value in headers)


def _is_counted(scope: Scope) -> bool:
    """Whether this request counts as a call. Reading the models or the key's limits does not."""
    path: str = scope["path"]
    if path in ENDPOINTS:
        return True
    return not (path in (KEY_PATH, MODELS_PATH) or path.startswith(MODELS_PATH + "/"))


def bearer_token(headers: Headers) -> bytes:
    """Return the well-formed key string of a request.

    It is read from Authorization, from x-api-key, which Anthropic's clients send, or from api-key,
    which Azure's send, and never from the URL. All three are read for every path, so that the same
    rules hold for all.

    Raises `MissingCredentials`, `CredentialsDiffer`, or for a malformed key string `InvalidKey` or
    `PlaceholderKey`. Attack: a client sends many random tokens. They cost no query.
    """
    credentials = [(name, value) for name, value in headers if name in _CREDENTIAL_HEADERS]
    token = _token(*credentials[0]) if len(credentials) == 1 else _single_token(credentials)
    if not token:
        raise MissingCredentials
    if not keystring.is_well_formed(token):
        raise PlaceholderKey if _PLACEHOLDER.fullmatch(token) else InvalidKey
    return token


def _single_token(credentials: Headers) -> bytes:
    """Return the token that all of these headers have; empty without one.

    An empty header is as none: Anthropic's clients send an empty x-api-key beside a bearer token.
    Raises `CredentialsDiffer` for two different tokens, or for one header sent twice. Attack: a
    proxy checks one of them, and we would use the other.
    """
    given = [
        (name, value) for name, value in credentials if value.strip(b" ").lower() not in _EMPTY
    ]
    tokens = {_token(name, value) for name, value in given}
    names = [name.decode() for name, _ in given]
    if len(tokens) > 1 or len(set(names)) < len(names):
        raise CredentialsDiffer(names)
    return tokens.pop() if tokens else b""


_EMPTY = frozenset({b"", b"bearer"})
_CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key", b"api-key"})
# `{API_KEY}`, `<your key>`, `$API_KEY`, `%API_KEY%`, `sk-...`, `YOUR_API_KEY`.
_PLACEHOLDER = re.compile(rb"[{<$%][ -~]{0,60}|[\w-]{0,9}\.\.\.|your[_-][\w-]{0,40}", re.IGNORECASE)


def _token(name: bytes, value: bytes) -> bytes:
    """Return the token of a header; empty for an Authorization scheme other than `Bearer`."""
    if name != b"authorization":
        return value.strip(b" ")
    scheme, _, token = value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""
