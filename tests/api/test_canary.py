"""A management key, and an API key that was created with it, are sent in all wrong places;
afterwards neither is stored or logged anywhere."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from django.db import connection as database

from keyportal.teams.models import Team, User
from tests.gateway.test_canary import HEADERS, Browser, assert_nowhere, every_value, without_audit
from tests.support.api_client import NewApiClient
from tests.support.server import Reply, Server

pytestmark = pytest.mark.gateway
OwnServer = Callable[..., Server]
KEYS = "/api/v1/keys"


def requests_with_key_string(
    server: Server, token: str, text: str, public_id: str
) -> Iterator[Reply]:
    """`text` as credential, name, tag, owner, pattern, parameter, path, header."""

    def request(method: str, path: str, body: object = None, **headers: str) -> Reply:
        return server.request(method, path, key=token, body=body, headers=headers)

    for credential in (text, text[:-1], f"{text}x", f"{text} {text}", f"x{text}"):
        for path in (KEYS, "/api/v1/self", "/v1/models"):
            yield server.request("GET", path, key=credential)
            yield server.request("GET", path, headers={"Authorization": f"Basic {credential}"})
    for name in HEADERS:
        yield server.request("GET", KEYS, key=token, headers={name: text})
    for query in ("name", "owner", "tag", "state", "cursor", "limit", text):
        yield request("GET", f"{KEYS}?{query}={quote(text)}")
    for path in (
        f"{KEYS}/{text}",
        f"/api/v1/members/{text}",
        f"/api/v1/teams/{text}",
        f"/api/{text}",
    ):
        yield request("GET", path)
        yield request("DELETE", path)
    for body in (
        {"name": text},
        {"name": "x", "description": f"my {text}."},
        {"name": "x", "tags": [text]},
        {"name": "x", "permissions": {"models": [text], "networks": [text]}},
        {"name": "x", text: text},
        {"name": "x", "expires_at": text},
        f'{{"name": "{text}'.encode(),
        text.encode() * 2000,
    ):
        yield request("POST", KEYS, body)
    yield request("PATCH", f"{KEYS}/{public_id}", {"owner": text})


def test_neither_kind_of_key_string_is_stored_or_logged(
    own_server: OwnServer, new_api_client: NewApiClient, alice: User, team: Team
) -> None:
    server = own_server(KEYPORTAL_LOG_LEVEL="DEBUG")
    program = new_api_client(alice)
    token = str(program.token)
    made = server.request("POST", KEYS, key=token, body={"name": "canary"})
    key = made.json()["key"]
    again = server.request("POST", KEYS, key=token, body={"name": "canary"})
    assert again.status == 409
    with without_audit():  # An error of ours, in the middle of making a key.
        failed = server.request("POST", KEYS, key=token, body={"name": "failed"})
    assert failed.status in {500, 503}

    for text in (token, key):
        for response_with_key in requests_with_key_string(server, token, text, made.json()["id"]):
            assert response_with_key.status < 500, response_with_key
            content = str(response_with_key.headers) + response_with_key.body.decode()
            # A problem tells where, and what is wrong with it, and never what stood there.
            assert_nowhere(text, "an answer", content)
    member = Browser(server, alice)
    for page in ("management-keys", "keys", "audit"):
        response = member.get(f"/teams/{team.slug}/{page}/").body.decode()
        for text in (token, key):
            assert_nowhere(text, page, response)
    for path in ("self", "keys", "audit", "usage"):
        response = server.request("GET", f"/api/v1/{path}", key=token).body.decode()
        for text in (token, key):
            assert_nowhere(text, path, response)
    assert server.stop() == 0
    assert "DEBUG" in server.log
    for text in (token, key):
        assert_nowhere(text, "the log", server.log)
        for where, value in every_value():
            assert_nowhere(text, where, value)
        if database.vendor == "sqlite":
            main = Path(str(database.settings_dict["NAME"]))
            for file in main.parent.glob(f"{main.name}*"):  # With the write-ahead log.
                assert_nowhere(text, file.name, file.read_bytes().decode("latin-1"))
