"""A key is sent wherever one could be sent by mistake. Afterwards no storage contains it."""

import base64
import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from django.conf import settings
from django.db import connection as database
from django.test import Client

from keyportal.audit.models import AuditEvent
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Session, Team, User
from tests.support.server import CHAT, Reply, Server, chat_body, free_port, head

pytestmark = pytest.mark.gateway
OwnServer = Callable[..., Server]
CSRF = "c" * 32
HEADERS = ["User-Agent", "Referer", "Cookie", "Accept", "Accept-Language", "Content-Type", "Origin",
           "X-Forwarded-For", "X-Request-Id", "X-Api-Key", "HX-Current-URL", "HX-Target", "Host",
           "Api-Key", "If-None-Match", "traceparent"]  # fmt: skip


class Browser:
    """A browser with cookies, with or without a signed-in user."""

    def __init__(self, server: Server, user: User | None = None) -> None:
        self._server = server
        self._cookies = {settings.CSRF_COOKIE_NAME: CSRF}
        self.set_cookies: list[str] = []
        if user:
            client = Client()
            client.force_login(user)
            name = settings.SESSION_COOKIE_NAME
            self._cookies[name] = client.cookies[name].value

    def get(self, path: str, **headers: str) -> Reply:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, **fields: str) -> Reply:
        form = urlencode({"csrfmiddlewaretoken": CSRF, **fields}).encode()
        return self._ask("POST", path, form, {"Content-Type": "application/x-www-form-urlencoded"})

    def _ask(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Reply:
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        sent = {"Cookie": cookies, **headers}
        reply = self._server.request(method, path, body=body, headers=sent)
        self.set_cookies.append(reply.headers.get("set-cookie", ""))
        return reply


def create_key(browser: Browser, team: Team) -> str:
    """With the form. Only its response may contain the key string."""
    path = f"/teams/{team.slug}/keys/create/"
    form = unescape(browser.get(path).body.decode())
    hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', form))
    hidden.pop("csrfmiddlewaretoken", None)
    page = browser.post(path, name="canary", **hidden).body.decode()
    found = re.search(r'id="new-key"[^>]*>\s*(sk-kp-\w+)|value="(sk-kp-\w+)"[^>]*id="new-key"|'
                      r'id="new-key"[^>]*value="(sk-kp-\w+)"', page)  # fmt: skip
    assert found, page
    return next(group for group in found.groups() if group)


@contextmanager
def without_audit() -> Iterator[None]:
    with database.cursor() as cursor:
        cursor.execute(f"ALTER TABLE {AuditEvent._meta.db_table} RENAME TO elsewhere")
    try:
        yield
    finally:
        with database.cursor() as cursor:
            cursor.execute(f"ALTER TABLE elsewhere RENAME TO {AuditEvent._meta.db_table}")


def send_key_to_the_portal(server: Server, alice: User, team: Team, key: str) -> Iterator[Reply]:
    """As a field, a search, a name, a path and a header, with and without a session."""
    keys = f"/teams/{team.slug}/keys/"
    nobody, member = Browser(server), Browser(server, alice)
    with without_audit():  # An internal error: 500, with a traceback in the log.
        failed = nobody.post(f"/accounts/login/?{key}", login=key, password=key)
    assert failed.status == 500
    yield failed
    yield nobody.post("/accounts/login/", login=key, password="wrong")
    yield nobody.post("/accounts/login/", login="alice", password=key)
    yield nobody.post("/accounts/login/", login=f"{key}@example.com", password=key)
    yield nobody.post(f"/accounts/login/?next=/{key}", login=f" {key} ", password=key)
    yield nobody.post("/accounts/password/reset/", email=f"{key}@example.com")
    yield nobody.post("/admin/login/", username=key, password=key)
    yield nobody.post(keys, csrfmiddlewaretoken=key)
    yield nobody.post(f"/accounts/password/reset/?{key}", email=alice.email, extra=key)
    for browser in (nobody, member):
        for path in ("/", "/accounts/login/", f"/{key}", f"/teams/{key}/keys/", keys, "/static/x"):
            yield browser.get(f"{path}?q={key}&next={key}&{key}")
        # Another host or cookie would be refused before the others are read.
        others = [name for name in HEADERS if name not in {"Cookie", "Host"}]
        for names in (others, ["Cookie"], ["Host"]):
            yield browser.get(keys, **dict.fromkeys(names, key))
        yield browser.get(f"{keys}{key}/delete/")
        yield browser.post(f"{keys}{key}/delete/")
        yield browser.post(f"{keys}{key[6:14]}/delete/{key}")
    for query in ("q", "sort", "page"):
        yield member.get(f"{keys}?{query}={quote(f'x {key} y')}")
        yield member.get(f"{keys}?{query}={key}", **{"HX-Request": "true"})
    for name in (key, f"my {key}", key * 2, f"{key[:30]}…", f"<{key}>"):
        for nonce in ("", key):
            yield member.post(f"{keys}create/", name=name, nonce=nonce)
    yield member.get(f"/teams/{team.slug}/audit/?action={key}&page={key}")
    yield member.post("/accounts/password/change/", oldpassword=key, password1=key, password2=key)
    yield member.get(f"/admin/keys/apikey/?q={key}")
    yield member.get(f"/admin/audit/auditevent/?q={key}&{key}={key}")


def send_key_to_the_gateway(server: Server, team: Team, key: str) -> Iterator[Reply]:
    """As a credential in the right and in wrong places, on paths that work and that fail."""
    names = [f"{team.slug}/{name}" for name in ("test", "down", "nothing")]
    for sent in (key, None, key[:-1], key + "x", f"{key} {key}", f"x{key}"):
        for name in (*names, key, f"{team.slug}/{key}"):
            yield server.chat(sent, name)
        yield server.request("GET", f"/v1/models?api_key={key}", key=sent)
        yield server.request("GET", f"/v1/models/{key}", key=sent)
        yield server.request("GET", f"/v1/{key}", key=sent)
        yield server.request("POST", CHAT, key=sent, body=b'{"model": "%s' % key.encode())
        yield server.request("POST", CHAT, key=sent, body={"model": names[0], "messages": key})
        for header in HEADERS:
            yield server.request("GET", "/v1/models", key=sent, headers={header: key})
    statuses = {server.chat(key, name).status for name in names}
    assert statuses == {200, 502, 404}


def send_key_in_malformed_requests(server: Server, key: str) -> None:
    """In data that is no HTTP, or is incomplete."""
    body = json.dumps(chat_body(key)).encode()
    texts = [
        f"{key}\r\n\r\n".encode(),
        f"{key} / HTTP/1.1\r\n\r\n".encode(),
        f"GET /v1/models HTTP/{key}\r\n\r\n".encode(),
        f"GET /{key * 200} HTTP/1.1\r\n\r\n".encode(),
        head("GET /v1/models", key, None, f"{key}\x00: x"),
        head("GET /v1/models", key, None, f"X: \x00{key}"),
        head("GET /v1/models", key, None, f"X: {key * 500}"),
        head(f"POST {CHAT}", key, None, f"Content-Length: {key}"),
        head(f"POST {CHAT}", key, None, f"Transfer-Encoding: {key}"),
        head(f"POST {CHAT}", key, None, "Transfer-Encoding: chunked") + key.encode() + b"\r\n",
        head(f"POST {CHAT}", key, len(body)) + body[:-5],
    ]
    for text in texts:
        with server.connect(timeout=0.2) as connection:
            connection.send(text)
            connection.is_closed()


def every_value() -> Iterator[tuple[str, str]]:
    """Every value of every table, decoded, as text."""
    with database.cursor() as cursor:
        tables = database.introspection.table_names(cursor)
        assert "keys_secret" in tables
        assert "keyportal_cache" in tables
        for table in tables:
            cursor.execute(f"SELECT * FROM {database.ops.quote_name(table)}")
            columns = [column[0] for column in cursor.description or []]
            for row in cursor.fetchall():
                for column, value in zip(columns, row, strict=True):
                    yield f"{table}.{column}", as_text(table, column, value)
    for session in Session.objects.all():
        yield "a session", str(session.get_decoded())


def as_text(table: str, column: str, value: object) -> str:
    if (table, column) == ("keyportal_cache", "value"):
        return str(pickle.loads(base64.b64decode(str(value))))
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode("latin-1")
    return str(value)


def assert_nowhere(key: str, where: str, text: str) -> None:
    """Neither the key string nor its secret, nor enough of it to guess the rest."""
    public = len("sk-kp-") + keystring.PUBLIC_LENGTH
    part = key[public : public + 16]
    found = text.find(part)
    assert found < 0, f"{where}: ...{text[max(found - 200, 0) : found]}[here]..."


@pytest.mark.parametrize("debug", ["False", pytest.param("True", marks=pytest.mark.any_database)])
def test_a_key_leaves_no_trace(
    own_server: OwnServer, alice: User, team: Team, model: ServedModel, debug: str
) -> None:
    User.objects.filter(pk=alice.pk).update(is_staff=True, is_superuser=True)
    server = own_server(KEYPORTAL_LOG_LEVEL="DEBUG", DEBUG=debug)
    served = ServedModel.objects.create(name=f"{team.slug}/down", team=team)
    nobody = Upstream.objects.create(name="down", base_url=f"http://127.0.0.1:{free_port()}/v1")
    Route.objects.create(model=served, upstream=nobody, upstream_model="down")
    member = Browser(server, alice)
    key = create_key(member, team)
    assert server.request("GET", "/v1/models", key=key).status == 200

    for reply in send_key_to_the_portal(server, alice, team, key):
        assert_nowhere(key, "a cookie", reply.headers.get("set-cookie", ""))
    for reply in send_key_to_the_gateway(server, team, key):
        assert_nowhere(key, "a header", str(reply.headers))
    send_key_in_malformed_requests(server, key)
    assert server.request("GET", "/v1/models", key=key).status == 200
    ApiKey.objects.get(name="canary").revoke(actor=alice)
    assert server.request("GET", "/v1/models", key=key).status == 401

    for page in ("keys", "keys/create", "models", "members", "audit", "guide"):
        answer = member.get(f"/teams/{team.slug}/{page}/")
        assert answer.status == 200
        assert_nowhere(key, page, answer.body.decode())
    for page in ("keys/apikey", "audit/auditevent", "teams/user"):
        answer = member.get(f"/admin/{page}/")
        assert answer.status == 200
        assert_nowhere(key, page, answer.body.decode())
    for name in (f"{team.slug}/test", f"{team.slug}/down", "x"):
        assert_nowhere(key, "a later answer", str(server.chat(None, name)))
    assert server.stop() == 0
    assert "DEBUG" in server.log
    assert "Traceback" in server.log
    assert_nowhere(key, "the log", server.log)
    for where, value in every_value():
        assert_nowhere(key, where, value)
    if database.vendor == "sqlite":
        main = Path(str(database.settings_dict["NAME"]))
        for file in main.parent.glob(f"{main.name}*"):  # With the write-ahead log.
            assert_nowhere(key, file.name, file.read_bytes().decode("latin-1"))
