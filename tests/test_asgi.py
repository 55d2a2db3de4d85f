"""The router: which application a request reaches; the lifespan of a worker."""

import asyncio
from typing import cast

import pytest

from keyportal.asgi import Router, application
from keyportal.gateway.app import Gateway
from keyportal.http.types import Message, Receive, Scope, Send
from tests.support.asgi import Client, scope


class Recorder:
    """An application that records the paths of its requests."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.paths.append(scope["path"])


def route(path: str) -> str:
    """The name of the application that a request for this path reaches."""
    apps = {name: Recorder() for name in ("gateway", "portal", "api", "constant time")}
    gateway, *other_apps = apps.values()
    router = Router(cast("Gateway", gateway), *other_apps)
    client = Client()
    asyncio.run(router(scope(path), client.receive, client.send))
    (name,) = [name for name, app in apps.items() if app.paths == [path]]
    return name


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/models", "/v1/chat/completions", "/v1//", "/v1/../admin/", "/auth/verify",
     "/auth/verify/", "/auth/verify/v1/models", "/auth/verify/../../admin/"],
)  # fmt: skip
def test_gateway_paths(path: str) -> None:
    assert route(path) == "gateway"


@pytest.mark.parametrize("path", ["/models", "/v1/v1/models", "//v1/models/", "/openai/v1/models"])
def test_other_path_of_an_endpoint_reaches_the_gateway_under_the_endpoints_own(path: str) -> None:
    gateway, others = Recorder(), Recorder()
    client, request = Client(), scope(path)
    router = Router(cast("Gateway", gateway), others, others, others)
    asyncio.run(router(request, client.receive, client.send))
    assert (gateway.paths, others.paths) == (["/v1/models"], [])
    assert request["path"] == path  # For the access log.


@pytest.mark.parametrize("path", ["/api/", "/api/v1/keys", "/api//", "/api/../admin/", "/api/v2"])
def test_management_api_paths(path: str) -> None:
    assert route(path) == "api"


def test_leak_reports_have_slots_of_their_own() -> None:
    assert route("/leaks/report") == "constant time"


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
def test_all_other_paths_reach_the_portal(path: str) -> None:
    assert route(path) == "portal"


def test_a_websocket_is_closed() -> None:
    client = Client()
    router = Router(cast("Gateway", Recorder()), Recorder(), Recorder(), Recorder())
    asyncio.run(router({"type": "websocket", "path": "/v1/x"}, client.receive, client.send))
    assert client.messages == [{"type": "websocket.close"}]


def test_a_worker_starts_and_stops_without_a_database() -> None:
    """This test has no database fixture, so pytest-django refuses a connection."""
    requests: list[Message] = [{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}]
    responses: list[str] = []

    async def receive() -> Message:
        await asyncio.sleep(0)
        return requests.pop(0)

    async def send(message: Message) -> None:
        responses.append(message["type"])

    asyncio.run(
        Router(Gateway(), Recorder(), Recorder(), Recorder())({"type": "lifespan"}, receive, send)
    )
    assert responses == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_unknown_gateway_path_without_key_is_unauthorized() -> None:
    """A client without a key can't learn which paths exist."""

    async def ask(path: str) -> Client:
        gateway, client = Gateway(), Client()
        await gateway.start()
        await Router(gateway, Recorder(), Recorder(), Recorder())(
            scope(path), client.receive, client.send
        )
        await gateway.stop()
        return client

    for path in ("/v1/", "/v1/models", "/v1/nowhere"):
        client = asyncio.run(ask(path))
        assert (client.status, client.json()["error"]["code"]) == (401, "invalid_api_key")


def test_gateway_answers_503_before_it_has_started() -> None:
    client = Client()
    asyncio.run(application(scope("/v1/models"), client.receive, client.send))
    assert (client.status, client.json()["error"]["code"]) == (503, "shutting_down")
