"""Aliases, models that go away and models for some teams, over real HTTP."""

from collections.abc import Callable
from datetime import date

import httpx
import pytest

from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.server import Server

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]


def test_next_request_follows_each_change(
    live: Server, alice: User, issue: Issue, model: ServedModel, other_team: Team
) -> None:
    _, key = issue(alice)
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}

    def call() -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        address = f"{live.url}/v1/chat/completions"
        return httpx.post(address, json=body, headers=headers, timeout=60)

    assert call().status_code == 404
    alias = Alias.objects.create(name="gpt-4o", model=model)
    served = call()
    assert served.status_code == 200
    assert "deprecation" not in served.headers
    model.retires_on = date(2027, 1, 31)
    model.save()
    served = call()
    assert served.headers["sunset"] == "Sun, 31 Jan 2027 00:00:00 GMT"
    assert served.headers["deprecation"] == f"@{int(model.created_at.timestamp())}"
    listed = httpx.get(f"{live.url}/v1/models", headers={"authorization": f"Bearer {key}"})
    assert [entry["id"] for entry in listed.json()["data"]] == ["gpt-4o", model.name]
    ServedModel.objects.filter(pk=model.pk).update(team=None)
    model.only_teams.add(other_team)
    assert call().status_code == 404
    model.only_teams.clear()
    assert call().status_code == 200
    alias.delete()
    assert call().status_code == 404
