"""The path of `KEYPORTAL_URL`: where it is removed before a request is routed, and where not."""

import asyncio
from typing import cast

import pytest
from django.urls import Resolver404, URLResolver
from django.urls.resolvers import RegexPattern
from pytest_django import Settings

from keyportal.asgi import Router
from keyportal.gateway.aliases import ALIASES
from keyportal.gateway.app import Gateway
from keyportal.http.base_path import BasePathAdded
from keyportal.http.types import Receive, Scope, Send
from keyportal.server.health import HEALTH_PATHS
from keyportal.settings import OWN_NAMES
from keyportal.urls import pages
from tests.support.asgi import Client, scope
from tests.test_isolation import URLS

BASE_PATH = "/keyportal"


class Recorder:
    """An application that records the scopes of its requests."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)


def route(path: str, raw_path: bytes = b"") -> tuple[str, Scope]:
    """The name of the application that the request reaches, and the scope that it gets there."""
    apps = {name: Recorder() for name in ("gateway", "portal", "api", "constant time")}
    gateway, *others = apps.values()
    router = Router(cast("Gateway", gateway), *(BasePathAdded(app, BASE_PATH) for app in others))
    client, request = Client(), scope(path)
    request["raw_path"] = raw_path or path.encode()
    asyncio.run(router(request, client.receive, client.send))
    assert request["path"] == path  # For the access log.
    ((name, app),) = [(name, app) for name, app in apps.items() if app.scopes]
    return name, app.scopes[0]


def is_page(path: str) -> bool:
    """Whether a site map below the base path has this path."""
    below = URLResolver(RegexPattern(rf"^{BASE_PATH}/"), pages)
    try:
        below.resolve(path)
    except Resolver404:
        return False
    return True


@pytest.fixture(autouse=True)
def base_path(settings: Settings) -> None:
    settings.BASE_PATH = BASE_PATH


@pytest.mark.parametrize("before", [BASE_PATH, ""])
@pytest.mark.parametrize(
    ("path", "app", "received"),
    [
        ("/v1/chat/completions", "gateway", "/v1/chat/completions"),
        ("/chat/completions", "gateway", "/v1/chat/completions"),
        ("/v1/v1/models/", "gateway", "/v1/models"),
        ("//v1//models", "gateway", "/v1/models"),
        ("/openai/deployments/m/embeddings", "gateway", "/v1/embeddings"),
        ("/auth/verify/v1/models", "gateway", "/auth/verify/v1/models"),
        ("/api/v1/keys", "api", "/keyportal/api/v1/keys"),
        ("/leaks/report", "constant time", "/keyportal/leaks/report"),
        ("/accounts/password/reset/", "constant time", "/keyportal/accounts/password/reset/"),
        ("/accounts/login/", "portal", "/keyportal/accounts/login/"),
        ("/", "portal", "/keyportal/"),
        ("//evil.example", "portal", "/keyportal//evil.example"),
        ("/../admin/", "portal", "/keyportal/../admin/"),
    ],
)
def test_proxy_may_keep_or_remove_the_base_path(
    before: str, path: str, app: str, received: str
) -> None:
    name, there = route(before + path)
    assert (name, there["path"]) == (app, received)


def test_base_path_without_a_slash_is_the_start_page() -> None:
    name, there = route("/keyportal")
    assert (name, there["path"]) == ("portal", "/keyportal/")


def test_raw_path_has_no_base_path_either() -> None:
    """Forward auth reads the path that Envoy appends from it, still encoded."""
    _, there = route("/keyportal/auth/verify/v1/a b", b"/keyportal/auth/verify/v1/a%20b")
    assert there["raw_path"] == b"/auth/verify/v1/a%20b"


@pytest.mark.parametrize(
    ("path", "raw_path"),
    [
        ("//keyportal/admin/", b""),
        ("//keyportal/leaks/report", b""),
        ("/keyportalx/leaks/report", b""),
        ("/keyportal.v1/models", b""),
        ("/KEYPORTAL/admin/", b""),
        ("/x/keyportal/auth/verify", b""),
        ("/keyportal/auth/verify", b"/%6beyportal/auth/verify"),
        ("/keyportal/leaks/report", b"/keyporta%6c/leaks/report"),
        ("/keyportal/leaks/report", b"/keyportal%2fleaks/report"),
        ("/keyportal/keyportal/leaks/report", b""),
        ("/keyportal/keyportal/auth/verify", b""),
    ],
)
def test_other_writing_of_the_base_path_reaches_no_page(path: str, raw_path: bytes) -> None:
    """Attack: the path passes a rule of the proxy, or a check of the router, as another one.

    The site map begins with the base path once.
    """
    name, there = route(path, raw_path)
    assert name == "portal"
    assert not is_page(there["path"])
    assert is_page("/keyportal/leaks/report")


def test_own_names_are_those_of_the_site_map_the_gateway_and_the_probes() -> None:
    paths = {path for _, path in URLS} | {*ALIASES} | HEALTH_PATHS
    paths |= {"/auth/verify", "/openai/deployments/", "/static/"}
    names = {path.split("/")[1] for path in paths}
    # A base path begins with no dot, and the start page has no name.
    assert {name for name in names if name and not name.startswith(".")} == OWN_NAMES
