"""SCIM under load: a person who is deactivated is served nothing more."""

from collections.abc import Callable

import pytest
from django.test import Client

from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.api.scim.conftest import Directory
from tests.support.load import LoadGenerator
from tests.support.server import Server, head

pytestmark = pytest.mark.gateway
LATER = 500


def test_nothing_is_served_after_a_deactivation(
    live: Server,
    directory: Directory,
    bob: User,
    issue: Callable[..., tuple[ApiKey, str]],
    serve_model: Callable[..., str],
) -> None:
    """None of 500 later requests with the person's key, no page, and no running stream."""
    _, key = issue(bob)
    browser = Client()
    browser.force_login(bob)
    load = LoadGenerator(live, head("GET /v1/models", key, None))
    with live.connect() as stream:
        stream.chat(key, serve_model("endless:0.05"), stream=True)
        assert stream.read_head().status == 200
        assert b"data:" in stream.chunk()
        body = {"Operations": [{"op": "Replace", "path": "active", "value": "False"}]}
        later = load.during(
            lambda: directory("PATCH", f"Users/{bob.pk}", body), before=100, after=LATER
        )
        assert set(later) == {401}
        assert set(load.statuses_since(0)) == {200, 401}
        assert b"invalid_api_key" in b"".join(iter(stream.chunk, b""))
    assert browser.get("/").status_code == 302
