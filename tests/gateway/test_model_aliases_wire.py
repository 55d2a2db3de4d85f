"""Aliases, models that go away and models for some teams, over real HTTP."""

from collections.abc import Callable
from datetime import date

import pytest

from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.server import Reply, Server

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]


def test_next_request_follows_each_change(
    live: Server, alice: User, issue: Issue, model: ServedModel, other_team: Team
) -> None:
    _, key = issue(alice)

    def call() -> Reply:
        return live.chat(key, "gpt-4o")

    assert call().status == 404
    alias = Alias.objects.create(name="gpt-4o", model=model)
    served = call()
    assert served.status == 200
    assert "deprecation" not in served.headers
    model.retires_on = date(2027, 1, 31)
    model.save()
    served = call()
    assert served.headers["sunset"] == "Sun, 31 Jan 2027 00:00:00 GMT"
    assert served.headers["deprecation"] == f"@{int(model.created_at.timestamp())}"
    listed = live.request("GET", "/v1/models", key=key)
    assert [entry["id"] for entry in listed.json()["data"]] == ["gpt-4o", model.name]
    ServedModel.objects.filter(pk=model.pk).update(team=None)
    model.only_teams.add(other_team)
    assert call().status == 404
    model.only_teams.clear()
    assert call().status == 200
    alias.delete()
    assert call().status == 404
