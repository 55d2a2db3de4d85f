"""Management keys, and the programs that have them."""

from typing import Any

import pytest

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.teams.models import Team, User
from tests.support.api_client import ApiClient, NewApiClient


@pytest.fixture
def new_api_client(team: Team) -> NewApiClient:
    """A program with a management key of this owner; with every scope, unless some are given."""

    def new_api_client(owner: User, name: str = "deploy", **more: Any) -> ApiClient:
        scopes = more.pop("scopes", list(Scope))
        more.setdefault("actor", None)
        key, key_string = ManagementKey.objects.issue(
            team=more.pop("team", team), owner=owner, name=name, scopes=scopes, **more
        )
        return ApiClient(key_string.text, key)

    return new_api_client
