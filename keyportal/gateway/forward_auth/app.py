"""Forward auth: a proxy asks `/auth/verify` whether a request is allowed, and relays it itself.

For operators with a gateway of their own: nginx's auth_request, Traefik's ForwardAuth, Caddy's
forward_auth and Envoy's ext_authz send a verification with the headers of the original request. The
answer is 200 with the key's team and public id, or 401, 403 or 429, by the same admission as on
`/v1/`. Keyportal doesn't learn when the call ends, so it doesn't count as a concurrent call.
"""

import asyncio
import logging
import time

from django.conf import settings

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.access import find_served
from keyportal.gateway.admission.batch import Admitted
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.aliases import expects_anthropic
from keyportal.gateway.authentication import bearer_token
from keyportal.gateway.error_middleware import UNAUTHORIZED_DELAY_SECONDS, request_id
from keyportal.gateway.errors import (
    AddressNotAllowed,
    EndpointNotAllowed,
    GatewayError,
    HTTPSRequired,
    InternalError,
    InvalidKey,
    ModelNotAllowed,
    ModelNotFound,
    PermissionDenied,
    ShuttingDown,
    Unauthorized,
)
from keyportal.gateway.forward_auth import original_request
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.usage_sql import LastUse
from keyportal.gateway.metrics.ended_requests import EndedRequest, Observer
from keyportal.http.requests import NO_SNIFFING, content_length, new_request_id
from keyportal.http.types import Headers, Receive, Scope, Send
from keyportal.keys import keystring
from keyportal.keys.rules.permissions import Endpoints

VERIFY_PATH = "/auth/verify"
ANY = Endpoints.ALL.value
FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_VERIFIED = "keyportal.verified"
MAX_HEADER_BYTES = 1_000  # By default nginx accepts 4 KiB of headers in total.

logger = logging.getLogger(__name__)


def is_verification(path: str) -> bool:
    """Whether this path is ours. Envoy appends the path of the original request to it."""
    return path == VERIFY_PATH or path.startswith(f"{VERIFY_PATH}/")


class ForwardAuth:
    """ASGI application. Accepts any method, and answers without reading the body.

    A proxy may send the Content-Length of the original request without its body, which then never
    arrives. So no body is read, and after a request that announces one the connection is closed.
    Attack: if the body does arrive, it could be parsed as the next request.
    """

    def __init__(self) -> None:
        self._admission: Admission | None = None
        self._is_https = settings.IS_HTTPS
        self.observers: tuple[Observer, ...] = ()

    def start(self, admission: Admission, meter: Meter) -> None:
        self._admission = admission
        self._meter = meter

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        # One dict is cheaper than a search of the list for each header that is usually missing.
        by_name = dict(scope["headers"])
        id_ = request_id(scope["headers"]) if b"x-request-id" in by_name else new_request_id()
        status, body, refusal, began = 200, b"", None, time.monotonic()
        try:
            headers = await self._verify(scope, by_name, id_)
        except Exception as error:
            refusal = await _gateway_error(error, id_)
            status, headers, body = _refusal(refusal, scope, id_)
        headers += (
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-request-id", id_.encode()),
            NO_SNIFFING,
        )
        if not FRAMING.isdisjoint(by_name) and content_length(scope) > 0:
            headers.append((b"connection", b"close"))
        if scope["method"] == "HEAD":
            body = b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        if self.observers:
            ended = _ended(scope, id_, status, time.monotonic() - began, refusal)
            for observe in self.observers:
                observe(ended)

    async def _verify(self, scope: Scope, by_name: dict[bytes, bytes], id_: str) -> Headers:
        """The headers for the proxy if the request is allowed, else raises a `GatewayError`."""
        if self._is_https and scope["scheme"] != "https":
            raise HTTPSRequired
        if self._admission is None:
            raise ShuttingDown
        began, client = time.time(), scope.get("client")
        address: str = client[0] if client else ""
        token = bearer_token(scope["headers"])
        digest = keystring.digest(token)
        try:
            admitted = await self._admission.admit(
                digest, address, is_counted=True, takes_slot=False
            )
        except AddressNotAllowed:
            self._meter.record_refusal(digest, keystring.public_id_of(token))
            raise
        if admitted is None:
            self._meter.record_refusal(digest, keystring.public_id_of(token))
            raise InvalidKey
        verdict = admitted.verdict
        model, error = self._check_original(verdict, scope, by_name)
        scope[_VERIFIED] = (verdict, model)
        use = LastUse(digest, began, address, by_name.get(b"user-agent", b""))
        self._meter.record_verification(verdict, use, VERIFY_PATH, model, error, id_)
        if error is not None:
            raise error
        return _identity_headers(admitted)

    def _check_original(
        self, verdict: Verdict, scope: Scope, by_name: dict[bytes, bytes]
    ) -> tuple[str, GatewayError | None]:
        """The model of the original request, if the proxy names one, and why it is refused, if so.

        The error is not raised here: the key is valid, so the request counts as on `/v1/`, even
        when it is refused.
        """
        if verdict.endpoints != ANY and not original_request.is_allowed(
            scope, VERIFY_PATH, verdict.endpoints
        ):
            return "", EndpointNotAllowed(Endpoints(verdict.endpoints).label.lower())
        models = (
            original_request.models(scope["headers"])
            if original_request.MODEL_HEADER in by_name
            else []
        )
        for model in models:
            if error := self._model_error(model, verdict):
                return "", error
        return models[0] if models else "", None

    @property
    def _catalog(self) -> Snapshot:
        return self._admission.catalog if self._admission else Snapshot.empty()

    def _model_error(self, model: str, verdict: Verdict) -> GatewayError | None:
        """Why the key may not call this model. The model needs no route: the proxy has its own.

        Another team's model gets the same answer as an unknown one, so that its name can't be
        guessed. Both get 403, because nginx passes on no other refusals than 401 and 403.
        """
        entry = find_served(self._catalog.models, model, verdict)
        if entry is None or not entry.name or not entry.is_served_to(verdict.team_id):
            return PermissionDenied(str(ModelNotFound()))
        return None if verdict.may_call(entry.name) else ModelNotAllowed(model, str(verdict.models))


def _ended(
    scope: Scope, id_: str, status: int, seconds: float, refusal: GatewayError | None
) -> EndedRequest:
    code = refusal.code or "" if refusal else ""
    if _VERIFIED not in scope:
        return EndedRequest(id_, VERIFY_PATH, status, seconds, code)
    verdict, model = scope[_VERIFIED]
    return EndedRequest(
        id_, VERIFY_PATH, status, seconds, code, model, verdict.current_slug, verdict.public_id
    )


def _identity_headers(admitted: Admitted) -> Headers:
    """The key's team and public id. The proxy must replace the caller's own headers by these."""
    headers = [
        (b"x-keyportal-team", admitted.verdict.current_slug.encode()),
        (b"x-keyportal-key", admitted.verdict.public_id.encode()),
    ]
    return headers + admitted.allowance.headers() if admitted.allowance else headers


async def _gateway_error(error: Exception, id_: str) -> GatewayError:
    if not isinstance(error, GatewayError):
        logger.error("Request %s failed.", id_, exc_info=error)
        return InternalError()
    if isinstance(error, Unauthorized):
        await asyncio.sleep(UNAUTHORIZED_DELAY_SECONDS)
    return error


def _refusal(error: GatewayError, scope: Scope, id_: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body, in the error format of the original request's endpoint.

    The body is in a header too, because nginx reads only the headers of this answer.
    """
    path = next(filter(None, original_request.paths(scope, VERIFY_PATH)), "")
    is_anthropic = expects_anthropic(path, scope["headers"])
    body = error.body(id_, is_anthropic=is_anthropic)
    short = PermissionDenied().body(id_, is_anthropic=is_anthropic)
    header = body if _fits_header(body) else short
    headers = [
        (b"content-type", b"application/json"),
        (b"x-keyportal-refusal", header),
        *error.headers,
    ]
    return error.status, headers, body


def _fits_header(body: bytes) -> bool:
    """Whether it can be a header's value. A quoted model or a long list of models may not fit."""
    return len(body) <= MAX_HEADER_BYTES and body.isascii() and body.decode().isprintable()
