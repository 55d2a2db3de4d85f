"""A model server on loopback that responds, streams, stalls, breaks off or misbehaves on demand.

The model's name selects the behaviour: `Route.upstream_model`, or `?model=` of a GET request.
"""

import asyncio
import email.policy
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from typing import Any, NamedTuple, cast

from aiohttp import web
from multidict import CIMultiDictProxy

from tests.support import model_responses

CHUNKS = 5


class Received(NamedTuple):
    """One request."""

    path: str
    headers: CIMultiDictProxy[str]
    """Names are case-insensitive."""
    body: bytes
    at: float
    """Monotonic seconds."""
    query: str


class Upstream:
    """The fake server, in its own thread; `url` is the base URL to register."""

    def __init__(self) -> None:
        self.url = ""
        self.models = ["tiny"]
        """What it lists."""
        self.received: list[Received] = []
        self.bytes_read = 0
        """Bytes of the last upload that have been read so far."""
        self.disconnected_at: list[float] = []
        """When clients disconnected before the response was complete, in monotonic seconds."""
        self.reported_usage: list[tuple[int, int]] = []
        """Prompt and completion tokens of each complete response."""
        self.released = threading.Event()
        """A test sets it to continue the responses that wait for it."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await self._upload(request) if _is_form(request) else await request.read()
        received = (request.path, request.headers, body, time.monotonic(), request.query_string)
        self.received.append(Received(*received))
        if request.path.startswith("/v1/responses/"):
            return self._stored(request)
        if request.method != "GET":
            model = _fields(self.received[-1])["model"]
        elif not (model := request.query.get("model", "")):
            listed = [{"id": id_, "object": "model"} for id_ in self.models]
            return web.json_response({"object": "list", "data": listed})
        behaviour, _, detail = model.partition(":")
        try:
            response: web.StreamResponse = await getattr(self, f"_{behaviour}")(request, detail)
        except (asyncio.CancelledError, ConnectionError):
            self.disconnected_at.append(time.monotonic())
            raise
        return response

    async def _echo_form(self, request: web.Request, _: str) -> web.StreamResponse:
        received = self.received[-1]
        return web.json_response(
            {"headers": dict(received.headers), "body": received.body.decode("latin-1")}
        )

    async def _echo(self, request: web.Request, _: str) -> web.StreamResponse:
        received = self.received[-1]
        return web.json_response(
            {
                "path": received.path,
                "headers": dict(received.headers),
                "body": received.body.decode(),
            }
        )

    def _stored(self, request: web.Request) -> web.Response:
        """What a request for a stored answer gets: what it asked, and usage as it was before."""
        usage = {"input_tokens": 1000, "output_tokens": 1000}
        return web.json_response(
            {"asked": f"{request.method} {request.path_qs}", "usage": usage},
            status=404 if "resp_lost" in request.path else 200,
        )

    async def _respond(self, request: web.Request, id_: str) -> web.StreamResponse:
        """An answer of `/v1/responses` with this id, streamed if the request asks for it.

        Other ids, in what the caller sent, come first in it.
        """
        fields = json.loads(self.received[-1].body)
        answer = {"metadata": fields.get("metadata"), "id": id_, "object": "response"}
        if not fields.get("stream"):
            return web.json_response(answer)
        response = await _events(request)
        for kind in ("created", "completed"):
            content = {"type": f"response.{kind}", "response": answer}
            await response.write(model_responses.named_event(content))
        return response

    async def _upload(self, request: web.Request) -> bytes:
        """Read a form, but only its start if its model is `early`."""
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            self.bytes_read = len(body)
            if b"\r\n\r\nearly" in body[:1000]:
                break
        return bytes(body)

    async def _early(self, request: web.Request, status: str) -> web.StreamResponse:
        return await self._status(request, status)

    async def _normal(self, request: web.Request, _: str) -> web.StreamResponse:
        """The usual response at this path, streamed if the request asks for it."""
        if request.path == "/v1/audio/speech":
            return web.Response(body=model_responses.SPEECH, content_type="audio/mpeg")
        if _fields(self.received[-1]).get("stream") not in {True, "true"}:
            return web.json_response(model_responses.FULL_RESPONSES[request.path])
        response = await _events(request)
        for chunk in model_responses.STREAM_RESPONSES[request.path]:
            await response.write(chunk)
        return response

    async def _break(self, request: web.Request, _: str) -> web.StreamResponse:
        """The usual stream at this path, which breaks off after two events."""
        response = await _events(request)
        await response.write(b"".join(model_responses.STREAM_RESPONSES[request.path][:2]))
        await asyncio.sleep(0.05)
        return await self._hang_up(request, "")

    async def _text(self, request: web.Request, text: str) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    async def _status(self, request: web.Request, status: str) -> web.StreamResponse:
        error = {"message": "The upstream's own words.", "type": "upstream", "code": "its_own"}
        return web.json_response(
            {"error": error}, status=int(status), headers={"Retry-After": "7", "X-Inner": "secret"}
        )

    async def _count(self, request: web.Request, tokens: str) -> web.StreamResponse:
        """Reports these prompt and completion tokens: `count:12,5`."""
        prompt, completion = map(int, tokens.split(","))
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        fields = json.loads(self.received[-1].body)
        if not fields.get("stream"):
            self.reported_usage.append((prompt, completion))
            return web.json_response({"object": "chat.completion", "usage": usage})
        response = await _events(request)
        for number in range(completion):
            await response.write(event(number))
        if (fields.get("stream_options") or {}).get("include_usage"):
            self.reported_usage.append((prompt, completion))
            last = json.dumps({"choices": [], "usage": usage}).encode()
            await response.write(b"data: " + last + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _strict(self, request: web.Request, _: str) -> web.StreamResponse:
        """A stream, but 422 if the request has `stream_options`."""
        if "stream_options" in _fields(self.received[-1]):
            return await self._status(request, "422")
        return await self._stream(request, "")

    async def _redirect(self, request: web.Request, status: str) -> web.StreamResponse:
        return web.Response(status=int(status), headers={"Location": self.url + "/elsewhere"})

    async def _cookie(self, request: web.Request, _: str) -> web.StreamResponse:
        response = web.json_response({"cookies": dict(request.cookies)})
        response.set_cookie("upstream", "mine")
        return response

    async def _stall(self, request: web.Request, seconds: str) -> web.StreamResponse:
        await asyncio.sleep(float(seconds or 3600))
        return web.json_response({})

    async def _hold(self, request: web.Request, _: str) -> web.StreamResponse:
        """A complete response when the test sets `released`."""
        await asyncio.to_thread(self.released.wait, 90)
        return web.json_response({})

    async def _trickle_head(self, request: web.Request, _: str) -> web.StreamResponse:
        """Sends the headers of a response, and no body."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = 10
        await response.prepare(request)
        await asyncio.sleep(3600)
        return response

    async def _first(self, request: web.Request, behaviour: str) -> web.StreamResponse:
        """Behaves like this at the first request of a test, and then normally."""
        name, _, detail = (behaviour if len(self.received) == 1 else "normal").partition(":")
        response: web.StreamResponse = await getattr(self, f"_{name}")(request, detail)
        return response

    async def _hang_up(self, request: web.Request, _: str) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def _half(self, request: web.Request, size: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": size or "1000"})
        response.content_type = "application/json"
        await response.prepare(request)
        await response.write(b'{"half":')
        return await self._hang_up(request, "")

    async def _garbage(self, request: web.Request, _: str) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"This is not HTTP.\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def _stream(self, request: web.Request, pause: str) -> web.StreamResponse:
        response = await _events(request)
        for number in range(CHUNKS):
            await response.write(event(number))
            await asyncio.sleep(float(pause or 0))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _endless(self, request: web.Request, pause: str) -> web.StreamResponse:
        response = await _events(request)
        for number in range(100_000):
            await response.write(event(number))
            await asyncio.sleep(float(pause or 0.02))
        return response

    async def _trickle(self, request: web.Request, detail: str) -> web.StreamResponse:
        """Like `endless`, but spaces in place of events."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(100_000):
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response

    async def _wait(self, request: web.Request, _: str) -> web.StreamResponse:
        """One event, then the rest when the test sets `released`."""
        response = await _events(request)
        await response.write(event(0))
        await asyncio.to_thread(self.released.wait, 90)
        await response.write(event(1) + b"data: [DONE]\n\n")
        return response

    async def _flood(self, request: web.Request, mebibytes: str) -> web.StreamResponse:
        response = await _events(request)
        line = b"data: " + b"x" * 65_528 + b"\n\n"
        for _ in range(int(mebibytes) * 16):
            await response.write(line)
        return response

    async def _large(self, request: web.Request, size: str) -> web.StreamResponse:
        """Breaks off after half of `size` bytes; a negative size: without Content-Length."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if not size.startswith("-"):
            response.content_length = int(size)
        await response.prepare(request)
        await response.write(b"x" * (abs(int(size)) // 2))
        await asyncio.sleep(0.05)
        return await self._hang_up(request, "")

    async def _error_event(self, request: web.Request, _: str) -> web.StreamResponse:
        """One event, then an error as the last one."""
        response = await _events(request)
        await response.write(event(0) + b'data: {"error": {"message": "CUDA error"}}\n\n')
        return response

    async def _linger(self, request: web.Request, _: str) -> web.StreamResponse:
        """A whole stream whose end comes when the test sets `released`."""
        response = await _events(request)
        await response.write(b"".join(model_responses.CHAT_STREAM))
        await asyncio.to_thread(self.released.wait, 90)
        return response

    async def _wait_inside(self, request: web.Request, _: str) -> web.StreamResponse:
        """One event and half of another, until the test sets `released`."""
        response = await _events(request)
        await response.write(event(0) + b'data: {"half')
        await asyncio.to_thread(self.released.wait, 90)
        return response

    async def _break_midway(self, request: web.Request, detail: str) -> web.StreamResponse:
        response = await _events(request)
        await response.write(event(0))
        await response.write(b'data: {"an event that' if detail == "inside" else b"")
        await asyncio.sleep(0.05)
        return await self._hang_up(request, "")

    async def _straddle(self, request: web.Request, _: str) -> web.StreamResponse:
        response = await _events(request)
        text = b"".join(event(number) for number in range(CHUNKS)) + b"data: [DONE]\n\n"
        for start in range(0, len(text), 7):
            await response.write(text[start : start + 7])
            await asyncio.sleep(0.001)
        return response


def event(number: int) -> bytes:
    """One server-sent event of a chat completion."""
    chunk = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "tiny",
        "choices": [{"index": 0, "delta": {"content": f" {number}"}, "finish_reason": None}],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def _is_form(request: web.Request) -> bool:
    return request.content_type == "multipart/form-data"


def _fields(received: Received) -> dict[str, Any]:
    """The fields of a JSON or form request."""
    if received.headers["Content-Type"] == "application/json":
        fields: dict[str, Any] = json.loads(received.body)
        return fields
    return {name: part.decode("latin-1") for name, _, part in form_parts(received)}


def form_parts(received: Received) -> list[tuple[str, str | None, bytes]]:
    """Name, file name and bytes of each part, as Python's e-mail parser reads them."""
    head = f"Content-Type: {received.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + received.body, policy=email.policy.HTTP)
    return [
        (
            str(part.get_param("name", header="content-disposition")),
            part.get_filename(),
            cast("bytes", part.get_payload(decode=True)),
        )
        for part in cast("list[EmailMessage]", message.get_payload())
    ]


async def _events(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


@contextmanager
def running() -> Iterator[Upstream]:
    """Run the fake server for the duration of the `with` block."""
    upstream = Upstream()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="fake-upstream")
    thread.start()

    async def start() -> web.AppRunner:
        application = web.Application(client_max_size=64 * 1024 * 1024)
        application.router.add_route("*", "/{path:.*}", upstream.answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        upstream.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        return runner

    def run(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(60)

    runner = run(start())
    try:
        yield upstream
    finally:
        run(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def scripted(script: Callable[[int, int], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that sends the bytes of `script(n, m)` for the m-th request on the n-th connection.

    Yields its URL and the list of requests. It closes the connection after an empty response and
    after one with `Connection: close`.
    """
    requests: list[bytes] = []
    connections: list[object] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self)
            connection_number, request_number = len(connections), 0
            while request := _read_request(self.request):
                request_number += 1
                requests.append(request)
                response = script(connection_number, request_number)
                self.request.sendall(response)
                if not response or b"Connection: close" in response:
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", requests
        finally:
            server.shutdown()
            thread.join()


def _read_request(connection: socket.socket) -> bytes:
    """Head and body of one request; empty when the client has disconnected."""
    with connection.makefile("rb") as file:
        lines = []
        while (line := file.readline()) != b"\r\n":
            if not line:
                return b""
            lines.append(line)
        lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
        return b"".join(lines) + file.read(int(lengths[0].split(b":")[1]) if lengths else 0)
