import re
from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.teams.models import Team, User
from tests.support.health import report, sight

pytestmark = pytest.mark.any_database

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


def test_page_shows_health_but_not_the_servers(
    sign_in: SignIn, vera: User, serve: Callable[..., ServedModel]
) -> None:
    served = serve("public/deepseek-r1")
    Upstream.objects.update(name="gpu-7")
    first = Upstream.objects.get()
    other = Upstream.objects.create(name="gpu-8", base_url="http://192.0.2.8:8000/v1")
    Route.objects.create(model=served, upstream=other, upstream_model="x")
    unused = Upstream.objects.create(name="gpu-9", base_url="http://192.0.2.9:8000/v1")
    Route.objects.create(model=served, upstream=unused, upstream_model="x", weight=0)
    report("one", {unused: sight(5, "502")})
    client = sign_in(vera)

    def health_texts() -> list[str]:
        text = client.get(MODELS).content.decode()
        assert "gpu-" not in text
        assert "192.0.2" not in text
        return re.findall(r'data-label="Health"><span>([^<]*?)(?: since )?<', text)

    assert health_texts() == ["Not called yet", "Not called yet"]
    report("one", {first: sight()})
    assert health_texts() == ["Answers", "Answers"]
    report("one", {first: sight(), other: sight(5, "502")})
    assert health_texts() == ["1 of 2 servers fail", "Answers"]
    report("two", {first: sight()})
    assert health_texts() == ["1 of 2 servers fail on 1 of 2 workers", "Answers"]
    report("two", {first: sight(5, "401"), other: sight(7, "502")})
    assert health_texts() == ["Fails on some workers", "Fails on 1 of 2 workers"]
    assert '<time datetime="' in client.get(MODELS).content.decode()


def test_page_without_models_shows_next_step(sign_in: SignIn, vera: User, team: Team) -> None:
    text = sign_in(vera).get(MODELS).content.decode()
    assert "No models yet" in text
    assert "manage.py add_upstream" in text


def test_page_works_without_htmx(sign_in: SignIn, vera: User) -> None:
    with_htmx = sign_in(vera).get(MODELS, headers={"HX-Request": "true"})
    assert with_htmx.content.lstrip().startswith(b"<!doctype html>")


@pytest.mark.parametrize("models", [3, 15])
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
    with django_assert_num_queries(11):
        client.get(MODELS)


def test_example_calls_a_real_server_before_the_demo_model(
    sign_in: SignIn, vera: User, model: ServedModel, serve: Callable[..., ServedModel]
) -> None:
    client = sign_in(vera)

    def example() -> str:
        return str(client.get(MODELS).context["examples"].model)

    Upstream.objects.update(base_url=BUILT_IN_URL)
    assert example() == model.name
    real = Upstream.objects.create(name="gpu-7", base_url="http://127.0.0.1:9/v1")
    route = Route.objects.create(model=serve("public/large"), upstream=real, upstream_model="large")
    assert example() == "public/large"
    Route.objects.filter(pk=route.pk).update(weight=0)
    assert example() == model.name
