"""A page gives its database connection back before its response is sent."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from typing import cast
from urllib.parse import urlencode

import pytest
from asgiref.sync import sync_to_async
from django.core.signals import request_finished
from django.db import connection
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from pytest_django import Settings

from keyportal.http.django_handler import PortalHandler
from keyportal.http.types import ASGIApp, Message
from keyportal.teams.models import User
from tests.support.asgi import Client, scope
from tests.support.server import Connection, Server

SIGN_IN = "/accounts/login/"
POOL = 8
QUOTE = "'"  # One byte in a form, and six bytes in a page that repeats it.
events: list[str] = []


def sign_in_form(server: Server, name: str) -> tuple[bytes, str]:
    """The body of a sign-in form that anybody may send, and the cookie it needs."""
    page = server.request("GET", SIGN_IN)
    token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page.body)
    assert token
    form = {"login": name, "password": "x", "csrfmiddlewaretoken": token[1].decode()}
    return urlencode(form, safe=QUOTE).encode(), page.headers["set-cookie"].partition(";")[0]


class SlowReader(Connection):
    """Sends a request and doesn't read the response. Its socket buffers almost nothing."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(("127.0.0.1", port))
        self.socket.settimeout(60)
        self._file = self.socket.makefile("rb")

    def send_form(self, form: bytes, cookie: str) -> None:
        lines = [
            f"POST {SIGN_IN} HTTP/1.1",
            "Host: 127.0.0.1",
            f"Cookie: {cookie}",
            "Content-Type: application/x-www-form-urlencoded",
            f"Content-Length: {len(form)}",
        ]
        self.send("\r\n".join([*lines, "", ""]).encode(), form)


def test_clients_that_do_not_read_keep_no_connection(
    own_server: Callable[..., Server], alice: User
) -> None:
    """The response to a sign-in repeats the name. So anybody can ask for five megabytes, which is
    more than the kernel buffers."""
    server = own_server()
    form, cookie = sign_in_form(server, QUOTE * 900_000)
    with ExitStack() as readers:
        for _ in range(POOL):
            reader = readers.enter_context(SlowReader(server.port))
            reader.send_form(form, cookie)
            # The response has begun, so its queries are done.
            assert b" 200 " in reader.socket.recv(32), server.log
        own_form, own_cookie = sign_in_form(server, "alice")
        headers = {"Cookie": own_cookie, "Content-Type": "application/x-www-form-urlencoded"}
        assert server.request("POST", SIGN_IN, body=own_form, headers=headers).status == 200


def query(text: str) -> bytes:
    """Query the database, and return `text`."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return text.encode()


class Page(HttpResponse):
    def close(self) -> None:
        events.append("closed")
        super().close()


class Stream(StreamingHttpResponse):
    def close(self) -> None:
        events.append("closed")
        super().close()


async def parts() -> AsyncIterator[bytes]:
    for part in ("one", "two"):
        yield await sync_to_async(query)(part)


def stream(_: HttpRequest) -> Stream:
    query("")
    return Stream(parts())


urlpatterns = [path("page", lambda _: Page(query("page"))), path("stream", stream)]


@pytest.fixture
def recorded(settings: Settings) -> Iterator[list[str]]:
    """The events of a response of this module's pages, in their order."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    events.clear()

    def finished(**_: object) -> None:
        events.append("finished")

    request_finished.connect(finished)
    yield events
    request_finished.disconnect(finished)


class Watcher(Client):
    """Records, with each part of a response, whether the request still has its connection."""

    async def send(self, message: Message) -> None:
        is_open = await sync_to_async(lambda: connection.connection is not None)()
        part = "head" if "status" in message else message.get("body", b"end").decode()
        events.append(f"{part}, {'open' if is_open else 'closed'}")
        await super().send(message)


def visit(address: str) -> None:
    client = Watcher(b"")
    asyncio.run(_visit(cast("ASGIApp", PortalHandler()), client, address))


async def _visit(handler: ASGIApp, client: Client, address: str) -> None:
    await handler(scope(address), client.receive, client.send)


def test_page_has_no_connection_while_it_is_sent_and_is_closed_once(
    transactional_db: None, recorded: list[str]
) -> None:
    visit("/page")
    assert recorded == ["head, closed", "page, closed", "closed", "finished"]


def test_stream_keeps_its_connection_to_its_end(
    transactional_db: None, recorded: list[str]
) -> None:
    visit("/stream")
    assert recorded == ["head, open", "one, open", "two, open", "end, open", "closed", "finished"]
