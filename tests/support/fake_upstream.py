"""A model server on loopback that answers, streams, stalls, breaks off and misbehaves on demand.

What it does is chosen by the name that the route gives the model: `Route.upstream_model`. A GET,
which has no body, may name one as `?model=`.
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

from tests.support import factories

CHUNKS = 5


class Received(NamedTuple):
    """One request as it arrived here."""

    path: str
    headers: CIMultiDictProxy[str]
    """Found by name in any case."""
    body: bytes
    at: float
    """Monotonic seconds."""


class Upstream:
    """The fake server, in a thread of its own. `url` is what an operator would register."""

    def __init__(self) -> None:
        self.url = ""
        self.received: list[Received] = []
        self.arrived = 0
        """Bytes of the last upload that have been read here so far."""
        self.cut_at: list[float] = []
        """When a caller went away while we were still answering, in monotonic seconds."""
        self.told: list[tuple[int, int]] = []
        """Prompt and completion tokens, as an answer that went out whole told them."""
        self.may_go_on = threading.Event()
        """Set by a test to release the answers that wait for it."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await self._upload(request) if _is_form(request) else await request.read()
        self.received.append(Received(request.path, request.headers, body, time.monotonic()))
        if request.method != "GET":
            model = _fields(self.received[-1])["model"]
        elif not (model := request.query.get("model", "")):
            return web.json_response(
                {"object": "list", "data": [{"id": "tiny", "object": "model"}]}
            )
        behaviour, _, detail = model.partition(":")
        try:
            response: web.StreamResponse = await getattr(self, f"_{behaviour}")(request, detail)
        except (asyncio.CancelledError, ConnectionError):
            self.cut_at.append(time.monotonic())
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

    async def _upload(self, request: web.Request) -> bytes:
        """A form as it comes; its model may want it to be answered before it is whole."""
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            self.arrived = len(body)
            if b"\r\n\r\nearly" in body[:1000]:
                break
        return bytes(body)

    async def _early(self, request: web.Request, status: str) -> web.StreamResponse:
        return await self._status(request, status)

    async def _shaped(self, request: web.Request, _: str) -> web.StreamResponse:
        """As a good server answers at this path: whole, or as a stream where one is asked for."""
        if request.path == "/v1/audio/speech":
            return web.Response(body=factories.SPEECH, content_type="audio/mpeg")
        if _fields(self.received[-1]).get("stream") not in {True, "true"}:
            return web.json_response(factories.WHOLE[request.path])
        response = await _events(request)
        for chunk in factories.STREAMED[request.path]:
            await response.write(chunk)
        return response

    async def _break(self, request: web.Request, _: str) -> web.StreamResponse:
        """A good stream at this path, which breaks off after two events."""
        response = await _events(request)
        await response.write(b"".join(factories.STREAMED[request.path][:2]))
        await asyncio.sleep(0.05)
        return await self._hang_up(request, "")

    async def _exactly(self, request: web.Request, text: str) -> web.StreamResponse:
        return web.Response(text=text, content_type="application/json")

    async def _status(self, request: web.Request, status: str) -> web.StreamResponse:
        error = {"message": "The upstream's own words.", "type": "upstream", "code": "its_own"}
        return web.json_response(
            {"error": error}, status=int(status), headers={"Retry-After": "7", "X-Inner": "secret"}
        )

    async def _count(self, request: web.Request, tokens: str) -> web.StreamResponse:
        """Uses as many prompt and completion tokens as the name says: `count:12,5`."""
        prompt, completion = map(int, tokens.split(","))
        usage = {"prompt_tokens": prompt, "completion_tokens": completion}
        asked = json.loads(self.received[-1].body)
        if not asked.get("stream"):
            self.told.append((prompt, completion))
            return web.json_response({"object": "chat.completion", "usage": usage})
        response = await _events(request)
        for number in range(completion):
            await response.write(event(number))
        if (asked.get("stream_options") or {}).get("include_usage"):
            self.told.append((prompt, completion))
            last = json.dumps({"choices": [], "usage": usage}).encode()
            await response.write(b"data: " + last + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _redirect(self, request: web.Request, status: str) -> web.StreamResponse:
        return web.Response(status=int(status), headers={"Location": self.url + "/elsewhere"})

    async def _cookie(self, request: web.Request, _: str) -> web.StreamResponse:
        response = web.json_response({"cookies": dict(request.cookies)})
        response.set_cookie("upstream", "mine")
        return response

    async def _stall(self, request: web.Request, seconds: str) -> web.StreamResponse:
        await asyncio.sleep(float(seconds or 3600))
        return web.json_response({})

    async def _trickle_head(self, request: web.Request, _: str) -> web.StreamResponse:
        """The head of an answer, and then silence."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.content_length = 10
        await response.prepare(request)
        await asyncio.sleep(3600)
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
        """Like `endless`, but no events: an answer that never ends."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for _ in range(100_000):
            await response.write(b" ")
            await asyncio.sleep(0.02)
        return response

    async def _wait(self, request: web.Request, _: str) -> web.StreamResponse:
        """One event, then nothing until the test says so, then the rest."""
        response = await _events(request)
        await response.write(event(0))
        await asyncio.to_thread(self.may_go_on.wait, 90)
        await response.write(event(1) + b"data: [DONE]\n\n")
        return response

    async def _flood(self, request: web.Request, mebibytes: str) -> web.StreamResponse:
        response = await _events(request)
        line = b"data: " + b"x" * 65_528 + b"\n\n"
        for _ in range(int(mebibytes) * 16):
            await response.write(line)
        return response

    async def _large(self, request: web.Request, size: str) -> web.StreamResponse:
        """An answer of `size` bytes that breaks off after half of them; `size` minus: no length."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if not size.startswith("-"):
            response.content_length = int(size)
        await response.prepare(request)
        await response.write(b"x" * (abs(int(size)) // 2))
        await asyncio.sleep(0.05)
        return await self._hang_up(request, "")

    async def _wait_inside(self, request: web.Request, _: str) -> web.StreamResponse:
        """Half an event that nobody ends."""
        response = await _events(request)
        await response.write(event(0) + b'data: {"half')
        await asyncio.to_thread(self.may_go_on.wait, 90)
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
    """One server-sent event as model servers write them."""
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
    """What was asked for, however it was written."""
    if received.headers["Content-Type"] == "application/json":
        fields: dict[str, Any] = json.loads(received.body)
        return fields
    return {name: part.decode("latin-1") for name, _, part in form_parts(received)}


def form_parts(received: Received) -> list[tuple[str, str | None, bytes]]:
    """Name, file name and bytes of each part, as Python's own parser of mail reads them."""
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
    """The fake server, up while the block runs."""
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

    def wait(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(60)

    runner = wait(start())
    try:
        yield upstream
    finally:
        wait(runner.cleanup())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def scripted(script: Callable[[int, int], bytes]) -> Iterator[tuple[str, list[bytes]]]:
    """A server that speaks by rote: what it sends, for the nth request on the nth connection.

    Yields its URL and the requests it got. After an empty answer, and after one that says so, it
    closes the connection.
    """
    requests: list[bytes] = []
    connections: list[object] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self)
            number, asked = len(connections), 0
            while request := _read_request(self.request):
                asked += 1
                requests.append(request)
                answer = script(number, asked)
                self.request.sendall(answer)
                if not answer or b"Connection: close" in answer:
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
    """Head and body of one request; nothing when the caller has gone."""
    with connection.makefile("rb") as file:
        lines = []
        while (line := file.readline()) != b"\r\n":
            if not line:
                return b""
            lines.append(line)
        lengths = [line for line in lines if line.lower().startswith(b"content-length:")]
        return b"".join(lines) + file.read(int(lengths[0].split(b":")[1]) if lengths else 0)
