"""What a page keeps while its answer travels: nothing that others wait for."""

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
QUOTE = "'"  # One byte of a form, and six of a page that shows it again.
events: list[str] = []


def sign_in_form(server: Server, name: str) -> tuple[bytes, str]:
    """A form that anybody may send, with what its cookie must be."""
    page = server.request("GET", SIGN_IN)
    token = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page.body)
    assert token
    form = {"login": name, "password": "x", "csrfmiddlewaretoken": token[1].decode()}
    return urlencode(form, safe=QUOTE).encode(), page.headers["set-cookie"].partition(";")[0]


class SlowReader(Connection):
    """Asks, and leaves the answer where it is: its socket takes next to nothing in advance."""

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


def test_strangers_who_do_not_read_their_answers_leave_pages_a_connection(
    own_server: Callable[..., Server], alice: User
) -> None:
    """The answer to a sign-in shows the name again: five megabytes are anybody's to ask for,
    and more than the kernel takes in advance."""
    server = own_server()
    form, cookie = sign_in_form(server, QUOTE * 900_000)
    with ExitStack() as readers:
        for _ in range(POOL):
            reader = readers.enter_context(SlowReader(server.port))
            reader.send_form(form, cookie)
            # The answer has begun, so whatever it needed of the database it has had.
            assert b" 200 " in reader.socket.recv(32), server.log
        asked, own_cookie = sign_in_form(server, "alice")
        headers = {"Cookie": own_cookie, "Content-Type": "application/x-www-form-urlencoded"}
        assert server.request("POST", SIGN_IN, body=asked, headers=headers).status == 200


def asked(text: str) -> bytes:
    """What is said by a page that asks the database."""
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
        yield await sync_to_async(asked)(part)


def stream(_: HttpRequest) -> Stream:
    asked("whether there is anything to stream")
    return Stream(parts())


urlpatterns = [path("page", lambda _: Page(asked("page"))), path("stream", stream)]


@pytest.fixture
def told(settings: Settings) -> Iterator[list[str]]:
    """What happens to an answer of this module's pages and to the connection, in its order."""
    settings.ROOT_URLCONF = __name__
    settings.MIDDLEWARE = []
    events.clear()

    def finished(**_: object) -> None:
        events.append("finished")

    request_finished.connect(finished)
    yield events
    request_finished.disconnect(finished)


class Watcher(Client):
    """Looks, with each part of an answer, whether the request still has its connection."""

    async def send(self, message: Message) -> None:
        has = await sync_to_async(lambda: connection.connection is not None)()
        part = "head" if "status" in message else message.get("body", b"end").decode()
        events.append(f"{part}, {'held' if has else 'free'}")
        await super().send(message)


def visit(address: str) -> None:
    client = Watcher(b"")
    asyncio.run(_visit(cast("ASGIApp", PortalHandler()), client, address))


async def _visit(handler: ASGIApp, client: Client, address: str) -> None:
    await handler(scope(address), client.receive, client.send)


def test_a_page_has_no_connection_while_it_is_sent_and_is_closed_once(
    transactional_db: None, told: list[str]
) -> None:
    visit("/page")
    assert told == ["head, free", "page, free", "closed", "finished"]


def test_a_stream_keeps_its_connection_to_its_end(transactional_db: None, told: list[str]) -> None:
    visit("/stream")
    assert told == ["head, held", "one, held", "two, held", "end, held", "closed", "finished"]
