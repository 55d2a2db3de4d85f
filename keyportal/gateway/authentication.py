"""Who calls: the bearer token of a request, and the middleware that asks for a verdict on it."""

from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.errors import AddressNotAllowed, InvalidKey, MissingCredentials
from keyportal.gateway.metering.meter import Meter
from keyportal.http.types import ASGIApp, Headers, Receive, Scope, Send
from keyportal.keys import keystring

MODELS = "/v1/models"
KEY = "/v1/key"


class BearerAuthMiddleware:
    """ASGI middleware: lets a request through with a verdict, or raises why not.

    What passes has `scope["keyportal.call"]` and is in flight until the application returns.
    """

    def __init__(
        self, app: ASGIApp, admission: Admission, flight: ActiveCalls, meter: Meter
    ) -> None:
        self.app = app
        self.admission = admission
        self.flight = flight
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        token = bearer_token(scope["headers"])
        digest = keystring.digest(token)
        is_counted = counts(scope)
        client = scope.get("client")
        try:
            admitted = await self.admission.admit(
                digest, client[0] if client else "", is_counted=is_counted
            )
        except AddressNotAllowed:
            # Else a key that was stolen could be tried from anywhere, and nobody be told.
            self.meter.record_refusal(digest, keystring.public_id_of(token))
            raise
        if admitted is None:
            self.meter.record_refusal(digest, keystring.public_id_of(token))
            raise InvalidKey
        call = Call(digest, admitted, scope, self.admission)
        scope["keyportal.call"] = call
        self.meter.record_use(call)
        try:
            with self.flight.of(call):
                await self.app(scope, receive, send)
        except BaseException as error:
            call.note(error)
            raise
        finally:
            try:
                await call.settle()
            finally:
                if is_counted:
                    self.meter.record_call(call)
                else:
                    self.meter.record_lookup(call)


def counts(scope: Scope) -> bool:
    """Whether this is a call of something. Looking at what there is to call, and at what is left
    for it, is none."""
    path: str = scope["path"]
    return not (path in (KEY, MODELS) or path.startswith(MODELS + "/"))


def bearer_token(headers: Headers) -> bytes:
    """The well-formed key of a request: from Authorization, or from x-api-key as Anthropic's
    clients send it; from nowhere else, never from the URL. Both are read at every path alike, so
    that no rule holds for one way in and not for the other.

    Raises `MissingCredentials`, or `InvalidKey` for what can't be a key of ours: that costs no
    query, so spraying random tokens never reaches the database.
    """
    shown = [(name, _token(name, value)) for name, value in headers if name in _CREDENTIALS]
    token = shown[0][1] if len(shown) == 1 else _agreed(shown)
    if not token:
        raise MissingCredentials
    if not keystring.is_well_formed(token):
        raise InvalidKey
    return token


def _agreed(shown: Headers) -> bytes:
    """The one token that these headers show, if any: two that differ, or one header twice, are
    two opinions on who calls, and a proxy may have judged the other one."""
    # Who gives Anthropic's clients a token and an empty key sends an empty header beside it.
    shown = [one for one in shown if one != (b"x-api-key", b"")]
    if not any(token for _, token in shown):
        return b""
    names, tokens = zip(*shown, strict=True)
    if len(set(names)) < len(names) or len(set(tokens)) > 1:
        raise InvalidKey
    return bytes(tokens[0])


_CREDENTIALS = frozenset({b"authorization", b"x-api-key"})


def _token(name: bytes, value: bytes) -> bytes:
    """The key itself; of Authorization what follows `Bearer`, and nothing of another scheme."""
    if name == b"x-api-key":
        return value.strip(b" ")
    scheme, _, token = value.partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else b""
