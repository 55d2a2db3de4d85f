"""The relay of one call to one upstream, and which headers it passes on in both directions."""

import logging
from collections.abc import Callable
from typing import NamedTuple

from django.conf import settings

import keyportal
from keyportal.catalog.addresses import is_metadata_address
from keyportal.catalog.snapshot import Target
from keyportal.catalog.tls import tls_context
from keyportal.gateway.endpoints import Endpoint
from keyportal.gateway.errors import (
    UpstreamConnectTimeout,
    UpstreamFailed,
    UpstreamTimedOut,
)
from keyportal.gateway.http_client.client import Client, Response, parse_base_url
from keyportal.gateway.http_client.messages import (
    ConnectTimeout,
    Origin,
    ReadTimeout,
    StreamedBody,
    TransportError,
)
from keyportal.gateway.relay.answer import Answer
from keyportal.gateway.relay.sse import is_event_stream
from keyportal.http.requests import UUIDs
from keyportal.http.types import Headers

# The caller's Authorization, Cookie, Host and X-Forwarded-* must never be added here.
REQUEST_HEADERS = frozenset(
    {b"accept", b"anthropic-beta", b"anthropic-version", b"openai-beta"}
    | {b"traceparent", b"tracestate"}
)
RESPONSE_HEADERS = frozenset(
    {b"content-encoding", b"content-length", b"content-type", b"retry-after", b"retry-after-ms"}
)
OVERLOADED = 529  # Anthropic's status, which only its own clients know. For others it is 503.
# A body of known length up to this size is read completely before any of it is sent.
MAX_BUFFERED_BYTES = 256 * 1024

logger = logging.getLogger(__name__)


class RelayRequest(NamedTuple):
    """What a call sends to whichever upstream gets it, without its body."""

    endpoint: Endpoint
    headers: Headers
    """All headers of the caller; only those in `REQUEST_HEADERS` are passed on."""
    request_id: str
    content_type: bytes
    """Empty: the request has no body."""
    method: str = "POST"
    query: str = ""
    """Without a question mark. It is added to the query of the upstream's base URL, if any."""


def check_address(origin: Origin, address: str) -> None:
    """Raise `OSError` for a link-local address or a cloud's metadata service, and for a team's
    server if it may not have this address.

    Attack: a host name that resolves to the address at which clouds serve the machine's own
    credentials, or that resolved to a public address only when it was typed.
    """
    if is_metadata_address(address):
        raise OSError(None, "The name leads to a link-local or cloud metadata address.")
    if origin.owner and not settings.TEAM_SERVERS.allows_address(origin.host, address):
        raise OSError(None, "The name leads to an address that a team's server may not have.")


class Relay:
    """Sends calls to upstreams. One per worker; use it in one event loop."""

    def __init__(self) -> None:
        self._client = Client(check_address, tls_context)
        self._request_ids = UUIDs()
        self._logs_request_ids = logger.isEnabledFor(logging.DEBUG)

    def close(self) -> None:
        self._client.close()

    async def send(
        self,
        target: Target,
        request: RelayRequest,
        body: bytes | StreamedBody,
        on_sent: Callable[[], None] = lambda: None,
    ) -> Answer:
        """Send `body` to the upstream and return its answer once it begins.

        `on_sent` is called when there is a connection, before the request is sent.

        The URL is the upstream's base URL and a path from our own table. Raises `UpstreamFailed`,
        `UpstreamConnectTimeout` or `UpstreamTimedOut`, also later while the body is read.
        """
        request_id = self._request_ids.new()
        if self._logs_request_ids:
            logger.debug("Call %s goes upstream as %s.", request.request_id, request_id.decode())
        address = parse_base_url(
            target.base_url, target.ca_file, target.client_certificate_file, target.team_id
        )
        try:
            response = await self._client.send(
                address.with_query(request.query) if request.query else address,
                request.endpoint.path,
                _request_headers(target, request, request_id),
                body,
                method=request.method,
                connect_timeout=target.connect_timeout,
                first_byte_timeout=target.first_byte_timeout,
                read_timeout=target.read_timeout,
                on_sent=on_sent,
            )
            answer = await _answer(response, target)
        except TransportError as error:
            raise _gateway_error(error) from None
        if answer.status == OVERLOADED and not request.endpoint.is_anthropic:
            return answer._replace(status=503)
        return answer


class UpstreamBody:
    """The body of an answer that is a stream, or too long to be buffered."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def next_chunk(self) -> bytes:
        try:
            return await self._response.next_chunk()
        except TransportError as error:
            raise _gateway_error(error) from None

    def close(self) -> None:
        self._response.close()


async def _answer(response: Response, target: Target) -> Answer:
    if 300 <= response.status < 400:
        response.close()
        # Attack: a redirect sends our credential to a server of the upstream's choice.
        raise TransportError(
            f"{target.name} answers {response.status}, and redirects are not followed."
        )
    headers = [header for header in response.headers if header[0] in RESPONSE_HEADERS]
    if response.status == 204:
        # RFC 9110, 8.6: a client could wait for as many bytes, and they never come.
        headers = [header for header in headers if header[0] != b"content-length"]
    is_short = response.length is not None and response.length <= MAX_BUFFERED_BYTES
    if is_short and not is_event_stream(headers):
        # Read completely, so that an answer that breaks off is a 502 and not half an answer.
        return Answer(response.status, headers, await response.read())
    return Answer(response.status, headers, UpstreamBody(response))


def _gateway_error(error: TransportError) -> UpstreamFailed | UpstreamTimedOut:
    """What the caller gets. The error's own text may contain an address, so it is only logged."""
    failure: UpstreamFailed | UpstreamTimedOut = UpstreamFailed()
    if isinstance(error, ConnectTimeout):
        failure = UpstreamConnectTimeout()
    elif isinstance(error, ReadTimeout):
        failure = UpstreamTimedOut()
    failure.cause = f"{type(error).__name__}: {error}".rstrip(".")
    return failure


def _request_headers(target: Target, request: RelayRequest, request_id: bytes) -> Headers:
    """The caller's headers that may cross, ours, and those of the server.

    The request id is a new UUID for each attempt: some servers take only UUIDs, and vLLM's engine
    confuses two calls with the same id, which callers are free to choose. The caller's id goes
    beside it.
    """
    replaceable = [header for header in request.headers if header[0] in REQUEST_HEADERS]
    replaceable.append(_USER_AGENT)
    if added := target.headers.added_names:
        replaceable = [header for header in replaceable if header[0] not in added]
    headers = [
        *replaceable,
        _ACCEPT_IDENTITY,
        (b"X-Request-Id", request_id),
        (b"X-Client-Request-Id", request.request_id.encode()),
        *(target.headers.anthropic if request.endpoint.is_anthropic else target.headers.usual),
    ]
    if request.content_type:
        headers.append((b"Content-Type", request.content_type))
    return headers


_ACCEPT_IDENTITY = (b"Accept-Encoding", b"identity")
_USER_AGENT = (b"user-agent", f"keyportal/{keyportal.__version__}".encode())
