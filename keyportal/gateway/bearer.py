"""Who calls: the bearer token of a request, and the middleware that asks for a verdict on it."""

from keyportal.asgi_types import ASGIApp, Headers, Receive, Scope, Send
from keyportal.gateway.admission import Admission
from keyportal.gateway.errors import InvalidKey, MissingCredentials
from keyportal.gateway.flight import Call, Flight
from keyportal.gateway.metering import Meter
from keyportal.keys import secret

MODELS = "/v1/models"


class BearerAuthMiddleware:
    """ASGI middleware: lets a request through with a verdict, or raises why not.

    What passes has `scope["keyportal.call"]` and is in flight until the application returns.
    """

    def __init__(self, app: ASGIApp, admission: Admission, flight: Flight, meter: Meter) -> None:
        self.app = app
        self.admission = admission
        self.flight = flight
        self.meter = meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        digest = secret.digest(bearer_token(scope["headers"]))
        is_counted = counts(scope)
        admitted = await self.admission.admit(digest, is_counted=is_counted)
        if admitted is None:
            self.meter.refused(digest)
            raise InvalidKey
        call = Call(digest, admitted, scope, self.admission)
        scope["keyportal.call"] = call
        self.meter.saw(call)
        try:
            with self.flight.of(call):
                await self.app(scope, receive, send)
        except BaseException as error:
            call.note(error)
            raise
        finally:
            await call.settle()
            if is_counted:
                self.meter.ended(call)


def counts(scope: Scope) -> bool:
    """Whether this is a call of something. Looking at what there is to call is none."""
    path: str = scope["path"]
    return not (path == MODELS or path.startswith(MODELS + "/"))


def bearer_token(headers: Headers) -> bytes:
    """The well-formed key in the one Authorization header; from nowhere else, never from the URL.

    Raises `MissingCredentials`, or `InvalidKey` for what can't be a key of ours: that costs no
    query, so spraying random tokens never reaches the database.
    """
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise MissingCredentials
    scheme, _, token = values[0].partition(b" ")
    token = token.strip(b" ")
    if scheme.lower() != b"bearer" or not token:
        raise MissingCredentials
    # Two headers are two opinions on who calls, and a proxy may have judged the other one.
    if len(values) > 1 or not secret.is_well_formed(token):
        raise InvalidKey
    return token
