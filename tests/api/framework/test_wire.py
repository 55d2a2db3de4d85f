"""Over a real connection: both kinds of key, and bodies that are too large."""

import json

import pytest
from django.test import Client

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.api_client import NewApiClient
from tests.support.server import Server

pytestmark = pytest.mark.gateway
KEYS = "/api/v1/keys"


def test_program_creates_uses_and_deletes_a_key(
    live: Server, new_api_client: NewApiClient, ada: User
) -> None:
    token = new_api_client(ada).token
    made = live.request("POST", KEYS, key=token, body={"name": "ci"})
    assert made.status == 201
    assert "set-cookie" not in made.headers
    key, address = made.json()["key"], f"{KEYS}/{made.json()['id']}"
    assert live.request("GET", "/v1/models", key=key).status == 200
    assert live.request("POST", f"{address}/disable", key=token).status == 200
    assert live.request("GET", "/v1/models", key=key).status == 401
    assert live.request("POST", f"{address}/enable", key=token).status == 200
    turned = live.request("POST", f"{address}/rotate", key=token, body={"grace": "now"}).json()
    assert live.request("GET", "/v1/models", key=key).status == 401
    assert live.request("GET", "/v1/models", key=turned["key"]).status == 200
    assert live.request("DELETE", address, key=token).status == 204
    assert live.request("GET", "/v1/models", key=turned["key"]).status == 401
    assert not ApiKey.objects.exists()


def test_each_kind_of_key_opens_only_its_own_api(
    live: Server, new_api_client: NewApiClient, ada: User, issue: object, team: Team
) -> None:
    token, (_, key) = new_api_client(ada).token, issue(ada)  # type: ignore[operator]
    for headers in ({}, {"X-Api-Key": str(token)}):
        assert live.request("GET", "/v1/models", key=token, headers=headers).status == 401
    assert live.chat(token, f"{team.slug}/test").status == 401
    assert live.request("GET", KEYS, key=key).status == 401
    for credential in (token, key):
        page = live.request("GET", f"/teams/{team.slug}/management-keys/", key=credential)
        assert page.status == 302


@pytest.mark.any_database
def test_session_does_not_open_the_apis(live: Server, ada: User, client: Client) -> None:
    client.force_login(ada)
    cookies = "; ".join(f"{name}={one.value}" for name, one in client.cookies.items())
    for path in (KEYS, "/v1/models"):
        assert live.request("GET", path, headers={"Cookie": cookies}).status == 401


@pytest.mark.any_database
def test_too_large_body_is_refused_before_it_takes_a_thread(
    live: Server, new_api_client: NewApiClient, ada: User
) -> None:
    token = new_api_client(ada).token
    response = live.request("POST", KEYS, key=token, body=b"x" * 70_000)
    problem = response.json()
    assert (response.status, problem["status"]) == (413, 413)
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["connection"] == "close"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert live.request("GET", KEYS, key=token).status == 200


@pytest.mark.any_database
def test_body_without_a_length_is_refused(
    live: Server, new_api_client: NewApiClient, ada: User
) -> None:
    body = json.dumps({"name": "ci"}).encode()
    with live.connect() as connection:
        connection.send_request(
            f"POST {KEYS}", new_api_client(ada).token, None, "Transfer-Encoding: chunked"
        )
        connection.send(f"{len(body):x}\r\n".encode(), body, b"\r\n0\r\n\r\n")
        assert connection.reply().status == 413
