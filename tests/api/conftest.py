"""Management keys, and the programs that have them."""

from typing import Any

import pytest

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.teams.models import Team, User
from tests.support.api_client import Manager, Program


@pytest.fixture
def manager(team: Team) -> Manager:
    """A program with a management key of this owner; with every scope, unless some are given."""

    def manager(owner: User, name: str = "deploy", **more: Any) -> Program:
        scopes = more.pop("scopes", list(Scope))
        key, key_string = ManagementKey.objects.issue(
            team=more.pop("team", team), owner=owner, name=name, scopes=scopes, **more
        )
        return Program(key_string.text, key)

    return manager
