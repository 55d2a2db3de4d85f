"""A program changes a team's model server at the moment when an operator does."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, transaction
from pytest_django import Settings

from keyportal.catalog.models import Upstream
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.teams.models import Team, User
from tests.support.api_client import ApiClient, NewApiClient, assert_problem
from tests.support.concurrency import is_lock_awaited
from tests.support.server import wait_until

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]


def switch_on(program: ApiClient, upstream: Upstream) -> Any:
    try:
        return program.post(f"model-servers/{upstream.pk}/switch-on")
    finally:
        connection.close()


def test_what_an_operator_switches_off_meanwhile_stays_off(
    new_api_client: NewApiClient, ada: User, team: Team, settings: Settings
) -> None:
    settings.TEAM_SERVERS = AllowedServers(is_public=True)
    upstream = Upstream.objects.create(name="s", base_url="https://a.example.com/v1", team=team)
    upstream.switch(is_active=False, by_team=True)
    program = new_api_client(ada)
    with ThreadPoolExecutor(1) as threads:
        with transaction.atomic():
            upstream.switch(is_active=False, by_team=False)
            switching = threads.submit(switch_on, program, upstream)
            wait_until(lambda: is_lock_awaited() or switching.done())
        assert_problem(switching.result(), 409, "conflict")
    upstream.refresh_from_db()
    assert upstream.is_held
