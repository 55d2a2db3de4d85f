"""What a program gets at an address that means nothing: what its base URL must be."""

from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import Settings

from keyportal.gateway.errors import UnknownPath
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.server import Server

pytestmark = pytest.mark.any_database
Issue = Callable[..., tuple[ApiKey, str]]
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.mark.gateway
def test_unknown_path_tells_the_base_url_in_the_clients_shape(
    live: Server, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    expected = f"Set your client's base URL to {live.url}/v1, or to {live.url} for"
    for path in ("/v1/nothing", "/v1", "/v1/v1/v1/models", "/x/chat/completions", "/openai/chat"):
        for headers in ({"Authorization": f"Bearer {key}"}, {"api-key": key}):
            reply = live.request("POST", path, headers=headers, body={})
            assert (reply.status, reply.code) == (404, "unknown_url"), path
            assert expected in reply.json()["error"]["message"]
        for headers in ({"x-api-key": key}, {"x-api-key": key, **VERSION}):
            reply = live.request("POST", path, headers=headers, body={})
            assert reply.status == 404
            assert (reply.json()["type"], reply.json()["error"]["type"]) == (
                "error",
                "not_found_error",
            )
            assert expected in reply.json()["error"]["message"]
            assert reply.headers["x-request-id"].startswith("req_")
            assert key not in str(reply)


@pytest.mark.gateway
@pytest.mark.parametrize("path", ["/api/v1/chat/completions", "/api/chat", "/api/v1/models/x"])
def test_the_management_api_tells_it_too(
    live: Server, alice: User, issue: Issue, path: str
) -> None:
    """Other services have their models below `/api/v1`."""
    reply = live.request("POST", path, key=issue(alice)[1], body={})
    assert reply.status == 404
    assert f"the base URL is {live.url}/v1." in reply.json()["detail"]


@pytest.mark.django_db
def test_people_get_the_page(client: Client) -> None:
    page = client.get("/nothing/", headers={"accept": "text/html"})
    assert (page.status_code, page["content-type"]) == (404, "text/html; charset=utf-8")
    # A proxy that signs people in adds a token to what the browser sends.
    shown = {"accept": "text/html,*/*", "authorization": "Bearer x"}
    assert client.get("/nothing/", headers=shown)["content-type"] == page["content-type"]
    assert client.get("/nothing/")["content-type"] == page["content-type"]


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key", "anthropic-version"])
def test_programs_get_json_without_a_check_of_the_key(client: Client, header: str) -> None:
    """Any text will do, so nothing about a key can be learned here."""
    answer = client.post("/nothing", headers={"accept": "*/*", header: "Bearer x"})
    assert (answer.status_code, answer["content-type"]) == (404, "application/json")
    assert answer["cache-control"] == "no-store"


def test_host_of_a_request_is_not_repeated(settings: Settings) -> None:
    """Attack: a forged Host header, whose address a person then gives to a program."""
    settings.PUBLIC_URL = ""
    assert "http(s)://{this server}/v1" in str(UnknownPath())
