"""One call to one upstream: what may cross, in either direction, and nothing else."""

import logging
import time
from typing import NamedTuple

from keyportal.catalog.models import is_link_local
from keyportal.catalog.snapshot import Target
from keyportal.gateway.calls import Call
from keyportal.gateway.endpoints import Endpoint
from keyportal.gateway.errors import (
    GatewayError,
    UpstreamFailed,
    UpstreamTimedOut,
    UpstreamUnreached,
)
from keyportal.gateway.http_client.client import Client, Response, parse_base_url
from keyportal.gateway.http_client.messages import Failure, Silent, Streamed, Unreached
from keyportal.gateway.relay.answer import Answer, BodyStream
from keyportal.gateway.relay.sse import WholeEvents, is_event_stream
from keyportal.http.types import Headers, Send

# The caller's Authorization, Cookie, Host and X-Forwarded-* are not here, and never will be.
REQUEST_HEADERS = frozenset(
    {b"accept", b"anthropic-beta", b"anthropic-version", b"openai-beta"}
    | {b"traceparent", b"tracestate"}
)
RESPONSE_HEADERS = frozenset(
    {b"content-encoding", b"content-length", b"content-type", b"retry-after"}
)
WHOLE_ANSWER = 256 * 1024  # Bytes; a shorter answer of known length is checked before it is sent.

logger = logging.getLogger(__name__)


class RelayRequest(NamedTuple):
    """What one call says to whichever upstream takes it, its body aside."""

    endpoint: Endpoint
    headers: Headers
    """All that the caller sent; only the listed ones cross."""
    request_id: str
    content_type: bytes


async def send_response(answer: Answer, call: Call, send: Send) -> None:
    """Send the answer as it comes; `send` waits while the client is slow, and so do we."""
    call.status, call.is_served = answer.status, answer.status < 400
    if isinstance(answer.body, bytes):
        await _pass_on_whole(answer, answer.body, call, send)
    else:
        await _pass_on_parts(answer, answer.body, call, send)


async def _pass_on_whole(answer: Answer, body: bytes, call: Call, send: Send) -> None:
    call.first_byte = time.monotonic()
    call.tally.part(body)
    await call.settle()
    await send(_start(answer.status, answer.headers))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _pass_on_parts(answer: Answer, parts: BodyStream, call: Call, send: Send) -> None:
    headers, note = answer.headers, call.tally.part
    if is_event_stream(headers):
        # We may take an event out or add one, so the length that was said is not ours to say. And
        # a proxy in front must not gather what we pass on at once.
        headers = [
            *(header for header in headers if header[0] != b"content-length"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        parts, note = WholeEvents(parts), call.tally.events
    length = _length(headers)
    await send(_start(answer.status, headers))
    while part := await parts.next():
        if call.first_byte is None:
            call.first_byte = time.monotonic()
        passed = note(part)
        if call.tally.is_last or call.tally.answer_bytes >= length:
            await call.settle()
        if passed:
            call.sends_since = time.monotonic()
            await send({"type": "http.response.body", "body": passed, "more_body": True})
            call.sends_since = 0.0
    await call.settle()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _start(status: int, headers: Headers) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _length(headers: Headers) -> float:
    """Bytes after which a client takes the answer for whole; infinite where nobody said."""
    return next((int(value) for name, value in headers if name == b"content-length"), float("inf"))


def refuse_link_local(address: str) -> None:
    """Attack: a host name that leads to where clouds keep the machine's own credentials.

    Raises `OSError`.
    """
    if is_link_local(address):
        raise OSError(None, "The name leads to a link-local address.")


class Relay:
    """The calls to the upstreams. One per worker; use it in one event loop."""

    def __init__(self) -> None:
        self._client = Client(refuse_link_local)

    def close(self) -> None:
        self._client.close()

    async def ask(self, target: Target, asked: RelayRequest, body: bytes | Streamed) -> Answer:
        """POST `body` to the upstream and return its answer once it begins.

        The address is the upstream's base URL and a path from our own table. Raises
        `UpstreamFailed`, `UpstreamUnreached` or `UpstreamTimedOut`, also while the parts are read.
        """
        try:
            response = await self._client.post(
                parse_base_url(target.base_url),
                asked.endpoint.path,
                _request_headers(target, asked),
                body,
                connect_timeout=target.connect_timeout,
                read_timeout=target.read_timeout,
            )
            return await _answer(response, target)
        except Failure as failure:
            raise _told(failure) from None


class UpstreamBody:
    """The body of an answer that is too long, or too long in coming, to be waited for."""

    def __init__(self, response: Response) -> None:
        self._response = response

    async def next(self) -> bytes:
        try:
            return await self._response.next()
        except Failure as failure:
            raise _told(failure) from None

    def close(self) -> None:
        self._response.close()


async def _answer(response: Response, target: Target) -> Answer:
    if 300 <= response.status < 400:
        response.close()
        # Whoever follows shows our credential to whatever the upstream names.
        raise Failure(f"{target.base_url} answers {response.status}, and no redirect is followed.")
    headers = [header for header in response.headers if header[0] in RESPONSE_HEADERS]
    is_short = response.length is not None and response.length <= WHOLE_ANSWER
    if is_short and not is_event_stream(headers):
        # Read whole, so that an answer that breaks off is a 502 and not half an answer.
        return Answer(response.status, headers, await response.read())
    return Answer(response.status, headers, UpstreamBody(response))


def _told(failure: Failure) -> GatewayError:
    """What the caller is told; the failure's own text may hold an address, and is for the log."""
    logger.warning("Upstream failed: %s: %s", type(failure).__name__, failure)
    if isinstance(failure, Unreached):
        return UpstreamUnreached()
    return UpstreamTimedOut() if isinstance(failure, Silent) else UpstreamFailed()


def _request_headers(target: Target, asked: RelayRequest) -> Headers:
    headers = [
        *[header for header in asked.headers if header[0] in REQUEST_HEADERS],
        (b"Content-Type", asked.content_type),
        (b"Accept-Encoding", b"identity"),
        (b"X-Request-Id", asked.request_id.encode()),
    ]
    if target.credential:
        headers.append((b"Authorization", f"Bearer {target.credential}".encode()))
        if asked.endpoint.is_anthropic:
            # Local servers read the one, Anthropic's own the other.
            headers.append((b"X-Api-Key", target.credential.encode()))
    return headers
