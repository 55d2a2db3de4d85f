"""One call to one upstream: what may cross, in either direction, and nothing else."""

import contextlib
import contextvars
import logging
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any, NamedTuple

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from keyportal.asgi_types import Headers, Send
from keyportal.catalog.models import is_link_local
from keyportal.catalog.snapshot import Target
from keyportal.gateway.endpoints import Endpoint
from keyportal.gateway.errors import UpstreamFailed, UpstreamTimedOut, UpstreamUnreached
from keyportal.gateway.flight import Call

# The caller's Authorization, Cookie, Host and X-Forwarded-* are not here, and never will be.
REQUEST_HEADERS = frozenset(
    {b"accept", b"anthropic-beta", b"anthropic-version", b"openai-beta"}
    | {b"traceparent", b"tracestate"}
)
RESPONSE_HEADERS = frozenset({"content-encoding", "content-length", "content-type", "retry-after"})
EVENT_STREAM = b"text/event-stream"
WHOLE_ANSWER = 256 * 1024  # Bytes; a shorter answer of known length is checked before it is sent.
LARGEST_EVENT = 1024 * 1024  # Bytes; nothing larger is held back for its end.
IDLE_SECONDS = 4.0  # vLLM closes after 5; who closes first never meets a stale connection.

logger = logging.getLogger(__name__)
made_connection = contextvars.ContextVar("made_connection", default=False)


class Streamed(NamedTuple):
    """A body that is sent piece by piece."""

    chunks: AsyncIterator[bytes]
    content_type: str
    length: int | None
    """Bytes; None where nobody knows yet."""


class Asked(NamedTuple):
    """What one call says to whichever upstream takes it, its body aside."""

    endpoint: Endpoint
    headers: Headers
    """All that the caller sent; only the listed ones cross."""
    request_id: str


def _nothing() -> None:
    """There is nothing to close."""


class Answer(NamedTuple):
    """What an upstream says: headers that may cross, and the body as it comes."""

    status: int
    headers: Headers
    chunks: AsyncGenerator[bytes, None]
    close: Callable[[], None] = _nothing
    """Ends what still goes on with the upstream: a generator that has not begun can't do that,
    and an answer may be whole before its request is.
    """


def is_event_stream(headers: Headers) -> bool:
    return any(
        name == b"content-type" and value.lower().startswith(EVENT_STREAM)
        for name, value in headers
    )


async def pass_on(answer: Answer, call: Call, send: Send) -> None:
    """Send the answer as it comes; `send` waits while the client is slow, and so do we."""
    headers, chunks, note = answer.headers, answer.chunks, call.tally.part
    if is_event_stream(headers):
        # A proxy in front must not gather what we pass on at once.
        headers = [*headers, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        chunks, note = whole_events(chunks), call.tally.events
    call.status, call.is_served = answer.status, answer.status < 400
    whole = _length(headers)
    # Closed at once when the call ends early, which closes the connection to the upstream.
    async with contextlib.aclosing(answer.chunks):
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for chunk in chunks:
            if call.first_byte is None:
                call.first_byte = time.monotonic()
            passed = note(chunk)
            if call.tally.is_last or call.tally.answer_bytes >= whole:
                await call.settle()
            if passed:
                await send({"type": "http.response.body", "body": passed, "more_body": True})
    await call.settle()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _length(headers: Headers) -> float:
    """Bytes after which a client takes the answer for whole; infinite where nobody said."""
    return next((int(value) for name, value in headers if name == b"content-length"), float("inf"))


async def whole_events(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The same bytes, cut between events: an error event may follow wherever the upstream breaks.

    Only the beginning of an event that straddles two chunks is held back, until the rest comes.
    """
    held = b""
    async for chunk in chunks:
        held += chunk
        if end := len(held) if len(held) > LARGEST_EVENT else _last_boundary(held):
            yield held[:end]
            held = held[end:]
    if held:
        yield held


def _last_boundary(data: bytes) -> int:
    """Where the last whole event in `data` ends; 0 when none does."""
    return max(_end_of_last(mark, data) for mark in (b"\n\n", b"\r\n\r\n", b"\r\r"))


def _end_of_last(mark: bytes, data: bytes) -> int:
    found = data.rfind(mark)
    return found + len(mark) if found >= 0 else 0


class Relay:
    """The connections to the upstreams. One per worker; use it in one event loop."""

    def __init__(self) -> None:
        self._kept = _session(keepalive_timeout=IDLE_SECONDS)
        self._fresh = _session(force_close=True)

    async def close(self) -> None:
        await self._kept.close()
        await self._fresh.close()

    async def ask(self, target: Target, asked: Asked, body: bytes | Streamed) -> Answer:
        """POST `body` to the upstream and return its answer once it begins.

        The address is the upstream's base URL and a path from our own table. Raises
        `UpstreamFailed` or `UpstreamTimedOut`, also while the chunks are read.
        """
        request = {
            "url": URL(target.base_url.rstrip("/") + asked.endpoint.path, encoded=True),
            "data": body if isinstance(body, bytes) else body.chunks,
            "headers": _request_headers(target, asked, body),
            "timeout": aiohttp.ClientTimeout(
                sock_connect=target.connect_timeout, sock_read=target.read_timeout
            ),
            "allow_redirects": False,
        }
        with _upstream_errors():
            response = await self._post(request, can_repeat=isinstance(body, bytes))
            if 300 <= response.status < 400:
                # Whoever follows shows our credential to whatever the upstream names.
                response.close()
                logger.warning(
                    "Upstream failed: %s answers %s, and no redirect is followed.",
                    target.base_url,
                    response.status,
                )
                raise UpstreamFailed
            return await _answer(response, body)

    async def _post(self, request: dict[str, Any], *, can_repeat: bool) -> aiohttp.ClientResponse:
        """Once, and once more where a kept connection was closed before any byte of an answer.

        Between our last use of a connection and this one, the upstream may have closed it; then
        it has not seen the request. On a fresh connection it may have, so that is not repeated.
        """
        if not can_repeat:  # So it gets a connection that nobody can have closed meanwhile.
            return await self._fresh.post(**request)
        made_connection.set(False)
        try:
            return await self._kept.post(**request)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            if made_connection.get():
                raise
        return await self._fresh.post(**request)


class Connector(aiohttp.TCPConnector):
    """Tells the task whether its request got a connection of its own, or a kept one.

    aiohttp's tracing tells it too, for a tenth of what the whole call costs.
    """

    async def _create_connection(self, *arguments: Any) -> ResponseHandler:
        made_connection.set(True)
        return await super()._create_connection(*arguments)


def _session(**connector: Any) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=Connector(limit=0, resolver=Resolver(), **connector),
        # The default jar would carry one caller's Set-Cookie into another caller's call.
        cookie_jar=aiohttp.DummyCookieJar(),
        # No proxies or credentials from the environment or a .netrc.
        trust_env=False,
        # What the upstream compressed, the client unpacks.
        auto_decompress=False,
        skip_auto_headers=("User-Agent", "Accept"),
    )


class Resolver(aiohttp.ThreadedResolver):
    """Refuses host names that lead to link-local addresses, where clouds keep credentials."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await super().resolve(host, port, family)
        if any(is_link_local(result["host"]) for result in found):
            raise OSError(None, "The name leads to a link-local address.")
        return found


def _request_headers(target: Target, asked: Asked, body: bytes | Streamed) -> dict[str, str]:
    crossing = {
        name.decode(): value.decode("latin-1")
        for name, value in asked.headers
        if name in REQUEST_HEADERS
    }
    crossing |= {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "X-Request-Id": asked.request_id,
    }
    if isinstance(body, Streamed):
        crossing["Content-Type"] = body.content_type
        if body.length is not None:
            crossing["Content-Length"] = str(body.length)
    if target.credential:
        crossing["Authorization"] = f"Bearer {target.credential}"
        if asked.endpoint.is_anthropic:
            # Local servers read the one, Anthropic's own the other.
            crossing["X-Api-Key"] = target.credential
    return crossing


async def _answer(response: aiohttp.ClientResponse, body: bytes | Streamed) -> Answer:
    headers = [
        (name.lower().encode(), value.encode("utf-8", "surrogateescape"))
        for name, value in response.headers.items()
        if name.lower() in RESPONSE_HEADERS
    ]
    if response.content_length is not None and response.content_length <= WHOLE_ANSWER:
        close = _nothing if isinstance(body, bytes) else response.close
        # Read whole, so that an answer that breaks off is a 502 and not half an answer.
        return Answer(response.status, headers, _once(await response.read()), close)
    return Answer(response.status, headers, _chunks(response), response.close)


async def _once(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


async def _chunks(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """As they come. Whoever stops early closes the connection, so that the upstream stops too."""
    with _upstream_errors(), contextlib.closing(response):
        async for chunk in response.content.iter_any():
            yield chunk
        response.release()


@contextlib.contextmanager
def _upstream_errors() -> Iterator[None]:
    try:
        yield
    except aiohttp.ConnectionTimeoutError:
        raise UpstreamUnreached from None
    except TimeoutError:
        raise UpstreamTimedOut from None
    except (aiohttp.ClientError, ValueError) as error:
        # The exception's text holds the upstream's address; it is for the log alone.
        logger.warning("Upstream failed: %s: %s", type(error).__name__, error)
        raise UpstreamFailed from None
