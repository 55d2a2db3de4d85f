"""Which application a request reaches, what starts and stops with a worker, and large forms."""

import asyncio
from typing import cast

import pytest

from keyportal.asgi import Router, application
from keyportal.gateway.app import Gateway
from keyportal.http.types import Message, Receive, Scope, Send
from tests.support.asgi import Client, scope


class Room:
    """An application that remembers what reached it."""

    def __init__(self) -> None:
        self.visits: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.visits.append(scope["path"])


def which_door(path: str) -> str:
    rooms = {name: Room() for name in ("gateway", "portal", "api", "reports")}
    gateway, *others = rooms.values()
    doors = Router(cast("Gateway", gateway), *others)
    client = Client()
    asyncio.run(doors(scope(path), client.receive, client.send))
    (entered,) = [name for name, room in rooms.items() if room.visits == [path]]
    return entered


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/models", "/v1/chat/completions", "/v1//", "/v1/../admin/", "/auth/verify",
     "/auth/verify/", "/auth/verify/v1/models", "/auth/verify/../../admin/"],
)  # fmt: skip
def test_programs_go_through_one_door(path: str) -> None:
    assert which_door(path) == "gateway"


@pytest.mark.parametrize("path", ["/api/", "/api/v1/keys", "/api//", "/api/../admin/", "/api/v2"])
def test_programs_that_manage_go_through_another(path: str) -> None:
    assert which_door(path) == "api"


def test_reports_of_leaks_keep_nobody_waiting_at_the_others() -> None:
    assert which_door("/leaks/report") == "reports"


@pytest.mark.parametrize(
    "path",
    [
        "/leaks/report/",
        "/api",
        "/apix/",
        "//api/",
        "/API/",
        "/x/api/",
        "/",
        "",
        "/v1x",
        "/v1x/",
        "/v10/",
        "//v1/",
        "/V1/",
        "/x/v1/",
        "/v2/",
        "v1/",
        "/admin/",
        "*",
        "/auth",
        "/auth/",
        "/auth/verifyx",
        "/auth/verify.html",
        "/AUTH/verify",
        "/x/auth/verify",
    ],
)
def test_everybody_else_goes_through_the_third(path: str) -> None:
    assert which_door(path) == "portal"


def test_a_websocket_is_closed() -> None:
    client = Client()
    doors = Router(cast("Gateway", Room()), Room(), Room(), Room())
    asyncio.run(doors({"type": "websocket", "path": "/v1/x"}, client.receive, client.send))
    assert client.messages == [{"type": "websocket.close"}]


def test_a_worker_starts_and_stops_without_a_database() -> None:
    """No database fixture here: pytest-django would refuse the connection."""
    asked: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    answered: list[str] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return asked.pop(0)

    async def send(message: Message) -> None:
        answered.append(message["type"])

    asyncio.run(Router(Gateway(), Room(), Room(), Room())({"type": "lifespan"}, receive, send))
    assert answered == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_an_unknown_address_of_the_gateway_needs_a_key_first() -> None:
    """Nobody without a key learns which addresses there are."""

    async def ask(path: str) -> Client:
        gateway, client = Gateway(), Client()
        await gateway.start()
        await Router(gateway, Room(), Room(), Room())(scope(path), client.receive, client.send)
        await gateway.stop()
        return client

    for path in ("/v1/", "/v1/models", "/v1/nowhere"):
        client = asyncio.run(ask(path))
        assert (client.status, client.json()["error"]["code"]) == (401, "invalid_api_key")


def test_before_its_parts_are_there_the_gateway_says_that_it_is_not() -> None:
    client = Client()
    asyncio.run(application(scope("/v1/models"), client.receive, client.send))
    assert (client.status, client.json()["error"]["code"]) == (503, "shutting_down")
