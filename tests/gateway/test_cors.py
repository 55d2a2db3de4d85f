"""Cross-origin requests: preflights, headers on all answers, and who gets none."""

import asyncio
from collections.abc import Callable

import pytest
from pytest_django import Settings

from keyportal.asgi import Router
from keyportal.gateway.app import Gateway
from keyportal.gateway.cors import CORSMiddleware
from keyportal.gateway.error_middleware import ErrorMiddleware
from keyportal.gateway.errors import (
    BodyTooLarge,
    GatewayError,
    InvalidKey,
    Overloaded,
    UnknownPath,
)
from keyportal.http.types import Headers, Receive, Scope, Send
from tests.support.asgi import Client, scope

pytestmark = pytest.mark.any_database

APP = "https://app.example.com"
ORIGINS = (APP, "http://localhost:5173")
ALLOWED, EXPOSED = b"access-control-allow-origin", b"access-control-expose-headers"
PREFLIGHT: Headers = [
    (b"origin", APP.encode()),
    (b"access-control-request-method", b"POST"),
    (b"access-control-request-headers", b"authorization,content-type,x-stainless-os"),
]


async def answering(_scope: Scope, _receive: Receive, send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-request-id", b"req_1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"fine"})


def raising(error: GatewayError) -> Callable[..., object]:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return ErrorMiddleware(app)


def ask(
    headers: Headers,
    *,
    origins: tuple[str, ...] = ORIGINS,
    app: object = answering,
    is_https: bool = False,
    **more: str,
) -> Client:
    client = Client()
    middleware = CORSMiddleware(app, origins, is_https=is_https)  # type: ignore[arg-type]
    asyncio.run(middleware(scope(headers=headers, **more), client.receive, client.send))
    return client


def from_origin(origin: str | bytes) -> Headers:
    return [(b"origin", origin.encode() if isinstance(origin, str) else origin)]


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_allowed_page_may_read_the_answer(origin: str) -> None:
    client = ask(from_origin(origin))
    assert (client.status, client.body) == (200, b"fine")
    assert client.headers[ALLOWED] == origin.encode()
    assert client.headers[EXPOSED] == b"*"
    assert client.headers[b"vary"] == b"Origin"
    assert client.headers[b"x-request-id"] == b"req_1"


@pytest.mark.parametrize(
    "origin",
    [
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "https://evil.example/https://app.example.com",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com/",
        "https://APP.example.com",
        "https://app.example.com, https://evil.example",
        "https://sub.app.example.com",
        "null",
        "*",
        "",
        b"https://app.example.com\r\nset-cookie: a=b",
        b"\xff\x00",
    ],
)
def test_another_page_may_not(origin: str | bytes) -> None:
    client = ask(from_origin(origin))
    assert (client.status, client.body) == (200, b"fine")
    assert client.headers == {
        b"content-type": b"application/json",
        b"x-request-id": b"req_1",
        b"vary": b"Origin",
    }


def test_two_origins_are_none() -> None:
    """Attack: a proxy checks one of them, and we use the other."""
    assert ALLOWED not in ask(from_origin(APP) + from_origin("https://evil.example")).headers
    assert ALLOWED not in ask(from_origin(APP) + from_origin(APP)).headers


@pytest.mark.parametrize("headers", [[], from_origin("https://any.example"), from_origin("null")])
def test_all_origins_can_be_allowed(headers: Headers) -> None:
    client = ask(headers, origins=("*",))
    assert client.headers[ALLOWED] == b"*"
    assert b"vary" not in client.headers, "the answer is the same for all"


def test_credentials_are_never_allowed() -> None:
    """With `*` a browser refuses them, and with an origin a page could use a person's cookies."""
    for origins in (ORIGINS, ("*",)):
        for client in (
            ask(PREFLIGHT, origins=origins, method="OPTIONS"),
            ask(PREFLIGHT, origins=origins),
        ):
            assert b"access-control-allow-credentials" not in client.headers


@pytest.mark.parametrize("origins", [ORIGINS, ("*",)])
def test_preflight_is_answered_without_a_key(origins: tuple[str, ...]) -> None:
    client = ask(PREFLIGHT, origins=origins, app=raising(InvalidKey()), method="OPTIONS")
    assert (client.status, client.body) == (204, b"")
    assert client.headers[ALLOWED] == (b"*" if origins == ("*",) else APP.encode())
    assert client.headers[b"access-control-allow-methods"] == b"GET, HEAD, POST, DELETE"
    assert client.headers[b"access-control-allow-headers"] == b"Authorization, *"
    assert int(client.headers[b"access-control-max-age"]) > 0
    assert client.headers[b"x-content-type-options"] == b"nosniff"


def test_preflight_of_another_page_is_refused() -> None:
    headers = from_origin("https://evil.example") + PREFLIGHT[1:]
    client = ask(headers, app=raising(InvalidKey()), method="OPTIONS")
    assert client.status == 401
    assert not [name for name in client.headers if name.startswith(b"access-control")]


def test_another_request_with_options_is_no_preflight() -> None:
    client = ask(from_origin(APP), app=raising(InvalidKey()), method="OPTIONS")
    assert client.status == 401


@pytest.mark.parametrize("error", [InvalidKey, UnknownPath, Overloaded, lambda: BodyTooLarge(9)])
def test_errors_can_be_read(error: Callable[[], GatewayError]) -> None:
    client = ask(from_origin(APP), app=raising(error()))
    assert client.status == error().status
    assert client.headers[ALLOWED] == APP.encode()
    assert client.headers[EXPOSED] == b"*"
    assert client.headers[b"vary"] == b"Origin"


def test_plain_http_is_refused_before_the_browser_sends_the_key(settings: Settings) -> None:
    settings.IS_HTTPS = True
    app = raising(InvalidKey())
    preflight = ask(PREFLIGHT, app=app, is_https=True, method="OPTIONS")
    assert preflight.status == 426
    request = ask(from_origin(APP), app=app, is_https=True)
    assert (request.status, request.headers[ALLOWED]) == (426, APP.encode())
    secure = ask(PREFLIGHT, app=app, is_https=True, method="OPTIONS", scheme="https")
    assert secure.status == 204


def route(path: str) -> Client:
    """Send a preflight to the real router; the portal and the API are `answering`."""
    client = Client()
    router = Router(Gateway(), answering, answering, answering)
    request = scope(path, "OPTIONS", headers=PREFLIGHT)
    asyncio.run(router(request, client.receive, client.send))
    return client


def test_only_the_gateway_has_these_headers(settings: Settings) -> None:
    settings.CORS_ORIGINS = ORIGINS
    for path in ("/v1/chat/completions", "/v1/models", "/v1/nothing"):
        assert (route(path).status, route(path).headers[ALLOWED]) == (204, APP.encode())
    for path in ("/", "/api/v1/keys", "/leaks/report", "/accounts/login/"):
        assert route(path).headers.keys() == {b"content-type", b"x-request-id"}


def test_forward_auth_has_none(settings: Settings) -> None:
    """A proxy asks there. The proxy decides what the browser gets."""
    settings.CORS_ORIGINS = ORIGINS
    client = route("/auth/verify")
    assert client.status == 503, "the gateway has not started; a preflight is nothing special"
    assert not [name for name in client.headers if name.startswith((b"access-control", b"vary"))]


def test_without_the_setting_there_are_none(settings: Settings) -> None:
    assert settings.CORS_ORIGINS == ()
    client = route("/v1/models")
    assert client.status == 503, "the gateway has not started; a preflight is nothing special"
    assert not [name for name in client.headers if name.startswith((b"access-control", b"vary"))]
