"""Sending an answer to the caller, while its tokens are counted."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from keyportal.gateway.calls import Call
from keyportal.gateway.errors import UpstreamFailed
from keyportal.gateway.relay.answer import Answer, BodyStream
from keyportal.gateway.relay.encoded_answer import EncodedAnswerReader, is_encoded
from keyportal.gateway.relay.failover import UpstreamAttempts
from keyportal.gateway.relay.sse import CompleteEvents, KeepAlive, is_event_stream
from keyportal.http.types import Headers, Receive, Scope, Send


async def send_first_answer(
    attempts: UpstreamAttempts,
    scope: Scope,
    receive: Receive,
    send: Send,
    on_answer: Callable[[], None] = lambda: None,
) -> None:
    """Ask the upstreams, and send the answer. If the client disconnects, the call ends.

    `on_answer` is called when the answer begins: no other upstream gets the request then.
    """
    call: Call = scope["keyportal.call"]
    watcher = None
    if "keyportal.on_disconnect" in scope:
        scope["keyportal.on_disconnect"](call.client_disconnected)
    else:
        # A server other than our own has no such callback.
        watcher = asyncio.create_task(_watch_for_disconnect(receive, call))
    try:
        with attempts:
            answer = await attempts.answer()
            on_answer()
            await send_response(answer, call, send)
    finally:
        if watcher is not None:
            watcher.cancel()


async def _watch_for_disconnect(receive: Receive, call: Call) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call.client_disconnected()


def send_response(answer: Answer, call: Call, send: Send) -> Awaitable[None]:
    """Send the answer to the caller, no faster than the caller reads it."""
    call.status, call.is_served = answer.status, answer.status < 400
    if isinstance(answer.body, bytes):
        return _send_buffered(answer, answer.body, call, send)
    return _send_stream(answer, answer.body, call, send)


async def _send_buffered(answer: Answer, body: bytes, call: Call, send: Send) -> None:
    call.first_byte = time.monotonic()
    if is_encoded(answer.headers):
        EncodedAnswerReader(answer.headers, call.tokens).feed(body)
    else:
        call.tokens.feed(body)
    await call.complete()
    await send(_start_message(answer.status, answer.headers))
    await send({"type": "http.response.body", "body": body, "more_body": False})


async def _send_stream(answer: Answer, body: BodyStream, call: Call, send: Send) -> None:
    headers, feed, keep_alive = answer.headers, call.tokens.feed, None
    if is_encoded(headers):
        feed = EncodedAnswerReader(headers, call.tokens).feed
    elif is_event_stream(headers):
        # An event may be removed or added, so the upstream's Content-Length would be wrong. And a
        # proxy in front must not buffer events.
        headers = [
            *(header for header in headers if header[0] != b"content-length"),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        body = events = CompleteEvents(body)
        feed = call.tokens.feed_events
        if call.is_kept_alive and call.is_all_sent is not None:
            keep_alive = KeepAlive(events, send, call.is_all_sent)
    left = _content_length(headers)
    await send(_start_message(answer.status, headers))
    call.keep_alive = keep_alive
    try:
        while chunk := await body.next_chunk():
            now = time.monotonic()
            if call.first_byte is None:
                call.first_byte = now
            output = feed(chunk)
            left -= len(chunk)
            is_end = call.tokens.has_last_event or left <= 0
            if is_end:
                if left < 0:
                    # Attack: a client could take the rest for the answer to its next request.
                    raise UpstreamFailed
                await call.complete()
            if output:
                call.sending_since = now
                await send({"type": "http.response.body", "body": output, "more_body": True})
                call.sending_since = 0.0
                if keep_alive is not None:
                    keep_alive.sent_at = now
            call.is_delivered = is_end
    finally:
        call.keep_alive = None  # The end follows, or an error as the last event.
    await call.complete()
    await send({"type": "http.response.body", "body": b"", "more_body": False})


def _start_message(status: int, headers: Headers) -> dict[str, object]:
    return {"type": "http.response.start", "status": status, "headers": headers}


def _content_length(headers: Headers) -> float:
    """Bytes after which a client takes the answer as complete; infinite without the header."""
    return next((int(value) for name, value in headers if name == b"content-length"), float("inf"))
