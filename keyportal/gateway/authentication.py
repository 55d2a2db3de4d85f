"""Authentication: reads the bearer token of a request, and admits the request or refuses it."""

from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.errors import AddressNotAllowed, InvalidKey, MissingCredentials
from keyportal.gateway.metering.meter import Meter
from keyportal.http.types import ASGIApp, Headers, Receive, Scope, Send
from keyportal.keys import keystring

MODELS_PATH = "/v1/models"
KEY_PATH = "/v1/key"


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


def _is_counted(scope: Scope) -> bool:
    """Whether this request counts as a call. Reading the models or the key's limits does not."""
    path: str = scope["path"]
    return not (path in (KEY_PATH, MODELS_PATH) or path.startswith(MODELS_PATH + "/"))


def bearer_token(headers: Headers) -> bytes:
    """Return the well-formed key string of a request.

    It is read from Authorization, or from x-api-key, which Anthropic's clients send, and never from
    the URL. Both headers are read for every path, so that the same rules hold for both.

    Raises `MissingCredentials`, or `InvalidKey` for a malformed key string. Attack: a client sends
    many random tokens. They cost no query.
    """
    tokens = [(name, _token(name, value)) for name, value in headers if name in _CREDENTIAL_HEADERS]
    token = tokens[0][1] if len(tokens) == 1 else _single_token(tokens)
    if not token:
        raise MissingCredentials
    if not keystring.is_well_formed(token):
        raise InvalidKey
    return token


def _single_token(tokens: Headers) -> bytes:
    """Return the token that all of these headers have; empty without one.

    Raises `InvalidKey` for two different tokens, or for one header sent twice. Attack: a proxy
    checks one of them, and we would use the other.
    """
    # Anthropic's clients send an empty x-api-key beside a bearer token.
    tokens = [header for header in tokens if header != (b"x-api-key", b"")]
    if not any(token for _, token in tokens):
        return b""
    names, values = zip(*tokens, strict=True)
    if len(set(names)) < len(names) or len(set(values)) > 1:
        raise InvalidKey
    return bytes(values[0])


_CREDENTIAL_HEADERS = frozenset({b"authorization", b"x-api-key"})


def _token(name: bytes, value: bytes) -> bytes:
    """Return the token of a header; empty for an Authorization scheme other than `Bearer`."""
    if name == b"x-api-key":
        return value.strip(b" ")
    scheme, _, token = value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""
