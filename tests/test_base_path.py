"""Keyportal below a path: `KEYPORTAL_URL=https://tools.example.com/keyportal`, as a real server."""

from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from http.cookies import SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import pytest
from django.conf import settings
from django.test import Client
from django.urls import Resolver404, resolve
from django.utils import timezone

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail
from keyportal.teams.models import Team, User
from tests.support.lazy import LazyModule
from tests.support.server import CHAT, Reply, Server, chat_body, wait_until
from tests.test_isolation import PAGES, PUBLIC, fill

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
BASE_PATH = "/tools/keyportal"
PUBLIC_URL = f"http://localhost{BASE_PATH}"


class Visitor:
    """A browser of one user, without JavaScript; it only reads."""

    def __init__(self, server: Server, user: User | None = None) -> None:
        self._server = server
        self.cookies: dict[str, str] = {}
        if user is not None:
            client = Client()
            client.force_login(user)
            name = settings.SESSION_COOKIE_NAME
            self.cookies[name] = client.cookies[name].value

    def request(self, path: str, form: dict[str, str] | None = None) -> Reply:
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"Host": "localhost", "Cookie": cookies}
        if form is None:
            return self._server.request("GET", path, headers=headers)
        headers["Content-Type"] = "application/x-www-form-urlencoded"
        return self._server.request("POST", path, body=urlencode(form).encode(), headers=headers)


class Attributes(HTMLParser):
    """Every value of an attribute that is a path or an address of this server."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for _, value in attrs:
            if value and value.startswith(("/", "http://localhost")):
                self.links.add(value)


def links(reply: Reply) -> set[str]:
    """The paths that a page refers to, or where it redirects to; each must be below BASE_PATH."""
    if location := reply.headers.get("location"):
        found = {location}
    elif reply.headers.get("content-type", "").startswith("text/html"):
        found = Attributes(reply.body.decode()).links
    else:
        found = set()
    paths = {urlsplit(link).path for link in found}
    assert [path for path in paths if not path.startswith(f"{BASE_PATH}/")] == []
    return paths


@pytest.fixture
def operator(alice: User) -> User:
    alice.is_staff = alice.is_superuser = True
    alice.save(update_fields=["is_staff", "is_superuser"])
    return alice


def route(path: str) -> str:
    """What is the same for pages of one kind, which differ in their objects alone."""
    try:
        return resolve(path.removeprefix(BASE_PATH)).route
    except Resolver404:
        return path  # Such as a static file.


def walk(visitor: Visitor, start: set[str], seen: dict[str, int]) -> None:
    """Visit a page of each kind that is not yet in `seen`, and of all that they link to."""
    unseen = {route(path): path for path in sorted(start)}
    while unseen := {kind: path for kind, path in unseen.items() if kind not in seen}:
        kind, path = unseen.popitem()
        reply = visitor.request(path)
        seen[kind] = reply.status
        unseen |= {route(link): link for link in sorted(links(reply))}


def test_every_link_of_every_page_is_below_the_base_path_and_is_answered(
    own_server: OwnServer, operator: User, team: Team, model: ServedModel, issue: Issue
) -> None:
    key, _ = issue(operator, expires_at=timezone.now() + timedelta(days=1))
    server = own_server(KEYPORTAL_URL=PUBLIC_URL)
    parts = {"slug": team.slug, "public_id": key.public_id}
    pages = {BASE_PATH + fill(path, **parts): name for name, path in PAGES}
    # Without a session, all others redirect to the sign-in.
    public = {page for page, name in pages.items() if name in PUBLIC}
    for visitor, own in ((Visitor(server, operator), {*pages}), (Visitor(server), public)):
        seen: dict[str, int] = {}
        walk(visitor, {f"{BASE_PATH}/"}, seen)
        # The admin's autocompletion is 403 without the field that it completes.
        odd = {kind: code for kind, code in seen.items() if code not in {200, 302, 403, 405}}
        assert not odd
        assert len(seen) > 10
        # Not every page has an object here.
        walk(visitor, own, seen)
        assert {*seen.values()} <= {200, 302, 403, 404, 405}


def test_pages_below_the_base_path(
    own_server: OwnServer, alice: User, team: Team, model: ServedModel
) -> None:
    server = own_server(KEYPORTAL_URL=PUBLIC_URL)
    visitor = Visitor(server, alice)
    guide = visitor.request(f"{BASE_PATH}/teams/{team.slug}/guide/").body.decode()
    assert f"{PUBLIC_URL}/v1" in guide
    stranger = Visitor(server)
    page = stranger.request(f"{BASE_PATH}/accounts/login/")
    (cookie,) = SimpleCookie(page.headers["set-cookie"]).values()
    assert (cookie.key, cookie["path"]) == (settings.CSRF_COOKIE_NAME, BASE_PATH)
    # A mail's link, from a request whose base path a proxy has removed.
    stranger.cookies[cookie.key] = cookie.value
    token = page.body.decode().partition('csrfmiddlewaretoken" value="')[2].partition('"')[0]
    form = {"csrfmiddlewaretoken": token, "email": "alice@example.com"}
    sent = stranger.request("/accounts/password/reset/", form)
    assert sent.headers["location"] == f"{BASE_PATH}/accounts/password/reset/done/"
    wait_until(lambda: f"{PUBLIC_URL}/accounts/password/reset/key/" in server.log)
    assert f"{BASE_PATH}{BASE_PATH}" not in server.log
    # A path that isn't ours does not become an address of another host.
    for path in (f"{BASE_PATH}//evil.example", "//evil.example", f"{BASE_PATH}//evil.example/.."):
        reply = stranger.request(path)
        assert (reply.status, reply.headers.get("location")) == (404, None), path
    bad_host = server.request("GET", f"{BASE_PATH}/", headers={"Host": "evil.example"})
    assert bad_host.status == 400
    assert links(bad_host) == {
        f"{BASE_PATH}/", f"{BASE_PATH}/static/icon.svg", f"{BASE_PATH}/static/portal.css",
    }  # fmt: skip


def test_programs_below_the_base_path(
    own_server: OwnServer, alice: User, team: Team, model: ServedModel, issue: Issue
) -> None:
    """Clients of models, and of the management API."""
    _, key = issue(alice)
    _, key_string = ManagementKey.objects.issue(
        team=team, owner=alice, actor=alice, name="deploy", scopes=[*Scope]
    )
    server = own_server(KEYPORTAL_URL=PUBLIC_URL)
    for base in ("", "/", "/v1", "/v1/", "/v1/v1", "//v1", "/openai/v1"):
        base_url = f"http://localhost:{server.port}{BASE_PATH}{base}"
        with openai.OpenAI(base_url=base_url, api_key=key, max_retries=0) as ai:
            assert [each.id for each in ai.models.list()] == [model.name], base
            answer = ai.chat.completions.create(
                model=model.name, messages=[{"role": "user", "content": "Hello"}]
            )
            assert answer.choices, base
    deployment = f"/openai/deployments/{model.name}/chat/completions?api-version=1"
    for path in (CHAT, "/chat/completions", deployment):
        body = chat_body(model.name)
        assert server.request("POST", BASE_PATH + path, key=key, body=body).status == 200, path
    for path in ("/auth/verify", "/auth/verify/v1/models", "/v1/key"):
        assert server.request("GET", BASE_PATH + path, key=key).status == 200, path
        assert server.request("GET", BASE_PATH + path).status == 401, path
    metadata = "/.well-known/oauth-authorization-server"
    for path in (BASE_PATH + metadata, metadata + BASE_PATH):  # RFC 8414, 3.1: the latter.
        assert server.request("GET", path).json()["issuer"] == PUBLIC_URL
    for path in ("/healthz", "/readyz"):
        assert server.request("GET", BASE_PATH + path).status == 200
        assert server.request("GET", path).status == 200
    for path in (f"{BASE_PATH}/v2/chat", f"/{BASE_PATH}/v1/models", f"{BASE_PATH}{BASE_PATH}/v1"):
        reply = server.request("POST", path, key=key, body={})
        assert (reply.status, reply.code) == (404, "unknown_url"), path
        assert f"base URL to {PUBLIC_URL}/v1" in reply.body.decode()
    for path in (f"{BASE_PATH}/api/v1/keys", "/api/v1/keys"):
        headers = {"Host": "localhost"}
        reply = server.request("GET", path, key=key_string.text, headers=headers)
        assert reply.status == 200, path
        assert [each["name"] for each in reply.json()["data"]] == ["test-key"], path
    document = server.request("GET", f"{BASE_PATH}/api/v1/openapi.json", headers=headers).json()
    assert document["servers"] == [{"url": BASE_PATH}]
    assert "/api/v1/keys" in document["paths"]
    unknown = server.request("GET", f"{BASE_PATH}/api/v2", headers=headers)
    assert unknown.status == 404
    assert f"{BASE_PATH}/api/v1/openapi.json" in unknown.json()["detail"]
    wrong_host = server.request("GET", f"{BASE_PATH}/api/v1/keys", headers={"Host": "evil.example"})
    assert wrong_host.headers["content-type"] == "application/problem+json"


def test_command_writes_links_with_the_base_path(
    transactional_db: None, alice: User, team: Team, issue: Issue, tmp_path: Path
) -> None:
    now = timezone.now()
    key, _ = issue(alice, expires_at=now + timedelta(days=1))
    ApiKey.objects.filter(pk=key.pk).update(expiry_set_at=now - timedelta(days=9))
    Server(tmp_path, KEYPORTAL_URL=PUBLIC_URL).manage("remind_of_expiry")
    mail = QueuedMail.objects.get()
    assert f"{PUBLIC_URL}/teams/{team.slug}/keys/{key.public_id}/" in mail.body
