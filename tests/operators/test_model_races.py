"""The teams of a model are edited while something else happens to them. Whatever comes first, a
model that was for some teams is never for all."""

from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from django.db import connection
from django.db.models.signals import pre_delete
from django.test import Client
from pytest_django import Settings

from keyportal.catalog.models import ServedModel
from keyportal.teams.models import Team
from tests.support.concurrency import is_lock_awaited, run_concurrently
from tests.support.forms import form_data
from tests.support.server import wait_until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def public(team: Team, other_team: Team) -> ServedModel:
    model = ServedModel.objects.create(name="public/large")
    model.only_teams.set([team, other_team])
    return model


def form_for(client: Client, model: ServedModel, *teams: Team) -> dict[str, Any]:
    page = client.get(f"/operators/models/{model.pk}/")
    return form_data(page) | {"only_teams": [str(team.pk) for team in teams]}


def edit(client: Client, model: ServedModel, form: dict[str, Any]) -> int:
    own = Client()  # A client is for one thread.
    own.cookies = deepcopy(client.cookies)
    try:
        return own.post(f"/operators/models/{model.pk}/", form).status_code
    finally:
        connection.close()


def test_two_operators_edit_it_at_once(
    operator: Client, public: ServedModel, team: Team, other_team: Team, settings: Settings
) -> None:
    """Each takes another team out. Together they would take out both."""
    # The count of a person's changes waits at most one second for its lock.
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"portal_write": None}
    forms = [form_for(operator, public, one) for one in (team, other_team)]
    statuses = run_concurrently(*(partial(edit, operator, public, form) for form in forms))
    assert sorted(map(str, statuses)) == ["302", "422"]
    assert public.only_teams.count() == 1


def test_team_is_deleted_while_it_becomes_the_only_one(
    operator: Client, public: ServedModel, team: Team
) -> None:
    form = form_for(operator, public, team)
    statuses = run_concurrently(partial(edit, operator, public, form), team.delete)
    assert statuses[0] in (302, 404, 422)
    assert not ServedModel.objects.filter(pk=public.pk, only_teams=None).exists()


@pytest.mark.postgresql
def test_team_becomes_the_only_one_after_its_models_were_judged(
    operator: Client, public: ServedModel, team: Team, other_team: Team
) -> None:
    """The deletion has seen that the model is for another team. The edit waits for its end."""
    public.only_teams.set([other_team])
    form = form_for(operator, public, team)
    edits: list[Future[int]] = []

    def edit_now(**_: object) -> None:
        edits.append(threads.submit(edit, operator, public, form))
        wait_until(lambda: is_lock_awaited() or edits[0].done())

    with ThreadPoolExecutor(1) as threads:
        pre_delete.connect(edit_now, sender=Team)
        try:
            team.delete()
        finally:
            pre_delete.disconnect(edit_now, sender=Team)
        assert edits[0].result() == 422
    assert [*public.only_teams.all()] == [other_team]
