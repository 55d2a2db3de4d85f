from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.teams.models import Team, User

MODELS = "/teams/u-8105f7322477/models/"
SignIn = Callable[[User], Client]


@pytest.fixture
def serve(model: ServedModel) -> Callable[..., ServedModel]:
    """Serve one more name, on the upstream of the team's own model."""
    upstream = Upstream.objects.get()

    def serve(name: str, team: Team | None = None) -> ServedModel:
        served = ServedModel.objects.create(name=name, team=team)
        Route.objects.create(model=served, upstream=upstream, upstream_model="x")
        return served

    return serve


def test_viewer_sees_what_keys_can_call(
    sign_in: SignIn, vera: User, other_team: Team, serve: Callable[..., ServedModel]
) -> None:
    serve("public/deepseek-r1")
    serve("u-0000000000cc/secret", other_team)
    response = sign_in(vera).get(MODELS)
    text = response.content.decode()
    assert response.status_code == 200
    assert [served.name for served in response.context["page"]] == [
        "public/deepseek-r1",
        "u-8105f7322477/test",
    ]
    assert "u-0000000000cc" not in text
    assert text.count('data-copy="model-') == 2
    assert text.count('"u-8105f7322477/test"') == 3  # In each example: the team's own comes first.


def test_without_models_it_tells_the_operators_next_step(
    sign_in: SignIn, vera: User, team: Team
) -> None:
    text = sign_in(vera).get(MODELS).content.decode()
    assert "No model can be called yet" in text
    assert "manage.py add_upstream" in text


def test_it_needs_no_htmx(sign_in: SignIn, vera: User) -> None:
    with_htmx = sign_in(vera).get(MODELS, headers={"HX-Request": "true"})
    assert with_htmx.content.lstrip().startswith(b"<!doctype html>")


def test_outsider_gets_404(sign_in: SignIn, charlie: User, team: Team) -> None:
    assert sign_in(charlie).get(MODELS).status_code == 404


def test_post_is_refused(sign_in: SignIn, vera: User) -> None:
    assert sign_in(vera).post(MODELS).status_code == 405


@pytest.mark.parametrize("models", [3, 60])
def test_queries_stay_the_same_for_any_number_of_models(
    sign_in: SignIn,
    vera: User,
    serve: Callable[..., ServedModel],
    django_assert_num_queries: DjangoAssertNumQueries,
    models: int,
) -> None:
    for number in range(models):
        serve(f"public/{number}")
    client = sign_in(vera)
    client.get(MODELS)
    with django_assert_num_queries(7):
        client.get(MODELS)
