"""Forward auth: `/auth/verify` tells a proxy whether a request may pass; the proxy relays it.

For those who keep a gateway of their own: nginx's auth_request, Traefik's ForwardAuth, Caddy's
forward_auth and Envoy's ext_authz ask here, with the headers of the request that they hold. The
answer is 200 with whose key it is, or 401, 403 or 429, by the same admission as on `/v1/`.
Nothing says when the call ends, so it is none of those that run at one time.
"""

import asyncio
import logging
import time

from django.conf import settings

from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission.batch import Admitted
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
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
from keyportal.http.requests import content_length, new_request_id
from keyportal.http.types import Headers, Receive, Scope, Send
from keyportal.keys import keystring
from keyportal.keys.rules.permissions import Endpoints

PATH = "/auth/verify"
ANY = Endpoints.ALL.value
FRAMING = frozenset({b"content-length", b"transfer-encoding"})
LONGEST_LINE = 1_000  # Bytes: by default nginx takes 4 KiB of headers, all in all.

logger = logging.getLogger(__name__)


def is_verification(path: str) -> bool:
    """Envoy writes the path of the request that it holds behind ours."""
    return path == PATH or path.startswith(f"{PATH}/")


class ForwardAuth:
    """ASGI application. Takes any method, and answers without a look at the body.

    A proxy may announce the body of the request that it holds, and send none: who waits for it
    waits in vain. So nothing is read, and after such a request the connection is closed: what
    comes on it may be that body after all, and must never be taken for another request.
    """

    def __init__(self) -> None:
        self._admission: Admission | None = None
        self._is_https = settings.IS_HTTPS

    def start(self, admission: Admission, meter: Meter) -> None:
        self._admission = admission
        self._meter = meter

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        # One look at all headers tells of most that they are not there.
        sent = dict(scope["headers"])
        name = request_id(scope["headers"]) if b"x-request-id" in sent else new_request_id()
        status, body = 200, b""
        try:
            headers = await self._verify(scope, sent, name)
        except Exception as error:
            status, headers, body = _refusal(await _told(error, name), scope, name)
        headers += (
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-request-id", name.encode()),
        )
        if not FRAMING.isdisjoint(sent) and content_length(scope) > 0:
            headers.append((b"connection", b"close"))
        if scope["method"] == "HEAD":
            body = b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _verify(self, scope: Scope, sent: dict[bytes, bytes], name: str) -> Headers:
        """What the proxy is told of a request that may pass. Raises why it may not."""
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
        model, objection = self._look(verdict, scope, sent)
        status = 200 if objection is None else objection.status
        use = LastUse(digest, began, address, sent.get(b"user-agent", b""))
        self._meter.record_verification(verdict, use, PATH, model, status, name)
        if objection is not None:
            raise objection
        return _identity(admitted)

    def _look(
        self, verdict: Verdict, scope: Scope, sent: dict[bytes, bytes]
    ) -> tuple[str, GatewayError | None]:
        """The model that is called, where that is told, and what there is to object, if anything.

        The key is good, so this request counts, as on `/v1/`, whatever becomes of it.
        """
        if verdict.endpoints != ANY and not original_request.is_open(
            scope, PATH, verdict.endpoints
        ):
            return "", EndpointNotAllowed(Endpoints(verdict.endpoints).label.lower())
        models = original_request.models(scope["headers"]) if original_request.MODEL in sent else []
        for model in models:
            if objection := self._objection(model, verdict):
                return "", objection
        return models[0] if models else "", None

    @property
    def _catalog(self) -> Snapshot:
        return self._admission.catalog if self._admission else Snapshot.empty()

    def _objection(self, model: str, verdict: Verdict) -> GatewayError | None:
        """Of a model that is called. It needs no route here: the proxy has its own.

        Another team's is as unknown as one that doesn't exist, and both get 403, because of all
        refusals nginx passes on no others than 401 and 403.
        """
        served = self._catalog.models.get(model)
        if served is None or served.team_id not in {None, verdict.team_id}:
            return PermissionDenied(ModelNotFound.message)
        return None if verdict.may_call(model) else ModelNotAllowed(model, str(verdict.models))


def _identity(admitted: Admitted) -> Headers:
    """Whose key it is; the proxy must put this in the place of what its caller said of that."""
    headers = [
        (b"x-keyportal-team", admitted.verdict.team_slug.encode()),
        (b"x-keyportal-key", admitted.verdict.public_id.encode()),
    ]
    return headers + admitted.allowance.headers() if admitted.allowance else headers


async def _told(error: Exception, name: str) -> GatewayError:
    if not isinstance(error, GatewayError):
        logger.error("Request %s failed.", name, exc_info=error)
        return InternalError()
    if isinstance(error, Unauthorized):
        await asyncio.sleep(UNAUTHORIZED_DELAY_SECONDS)
    return error


def _refusal(error: GatewayError, scope: Scope, name: str) -> tuple[int, Headers, bytes]:
    """Status, headers and body, in the shape that the proxy's caller reads.

    The body is in a header too: nginx reads no other part of this answer.
    """
    path = next(filter(None, original_request.paths(scope, PATH)), "")
    body = error.body(path, name)
    line = body if _fits(body) else PermissionDenied().body(path, name)
    headers = [
        (b"content-type", b"application/json"),
        (b"x-keyportal-refusal", line),
        *error.headers,
    ]
    return error.status, headers, body


def _fits(body: bytes) -> bool:
    """Into a header. What quotes the request's model, or a key's long list of models, may not."""
    return len(body) <= LONGEST_LINE and body.isascii() and body.decode().isprintable()
