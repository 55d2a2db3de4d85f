"""Other names of models, models for some teams only, and models that go away."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pytest
from django.test import Client

from keyportal.catalog.aliases import Alias, aliases_for
from keyportal.catalog.models import CatalogVersion, Route, ServedModel, Upstream
from keyportal.catalog.snapshot import CatalogEntry, Snapshot
from keyportal.gateway.access import callable_models, find_model
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import ModelNotAllowed, ModelNotFound
from keyportal.gateway.model_list import anthropic_model, openai_model
from keyportal.keys.rules.permissions import NamePatterns
from keyportal.teams.lifecycle.changes import change_slug
from keyportal.teams.models import Team, User

pytestmark = pytest.mark.any_database


@pytest.fixture
def large(db: None) -> ServedModel:
    return serve("public/large")


def serve(name: str, team: Team | None = None) -> ServedModel:
    upstream, _ = Upstream.objects.get_or_create(name="gpu", base_url="http://gpu.example/v1")
    model = ServedModel.objects.create(name=name, team=team)
    Route.objects.create(model=model, upstream=upstream, upstream_model="x")
    return model


def models() -> dict[str, CatalogEntry]:
    return Snapshot.read("default").models


def verdict(team: Team, *patterns: str) -> Verdict:
    return Verdict(7, "7QmX2aPd", team.pk, NamePatterns(patterns) if patterns else None)


def test_alias_leads_to_its_model(large: ServedModel, team: Team) -> None:
    Alias.objects.create(name="gpt-4o", model=large)
    found = find_model(models(), "gpt-4o", verdict(team))
    assert (found.name, found.id) == ("public/large", "gpt-4o")
    assert found.targets == models()["public/large"].targets
    ids = [entry.id for entry in callable_models(models(), verdict(team))]
    assert ids == ["gpt-4o", "public/large"]
    assert openai_model(found)["id"] == "gpt-4o"
    assert anthropic_model(found)["id"] == "gpt-4o"


def test_alias_of_a_team_is_for_this_team_and_goes_first(
    large: ServedModel, team: Team, other_team: Team
) -> None:
    own = serve(f"{team.slug}/own", team)
    Alias.objects.create(name="gpt-4o", model=own, team=team)
    with pytest.raises(ModelNotFound):
        find_model(models(), "gpt-4o", verdict(other_team))
    assert [entry.id for entry in callable_models(models(), verdict(other_team))] == [
        "public/large"
    ]
    Alias.objects.create(name="gpt-4o", model=large)
    assert find_model(models(), "gpt-4o", verdict(team)).name == own.name
    assert find_model(models(), "gpt-4o", verdict(other_team)).name == "public/large"


def test_alias_gives_no_right(large: ServedModel, team: Team, other_team: Team) -> None:
    """Attack: an alias leads a key to a model that it, or its team, may not call."""
    Alias.objects.create(name="public/small", model=large)
    with pytest.raises(ModelNotAllowed):
        find_model(models(), "public/small", verdict(team, "public/small"))
    assert callable_models(models(), verdict(team, "public/small")) == []
    assert find_model(models(), "public/small", verdict(team, "public/large"))
    theirs = serve(f"{other_team.slug}/secret", other_team)
    Alias.objects.create(name="secret", model=theirs)
    with pytest.raises(ModelNotFound):
        find_model(models(), "secret", verdict(team))


def test_model_goes_before_an_alias_of_its_name(large: ServedModel, team: Team) -> None:
    small = serve("public/small")
    Alias.objects.create(name=small.name, model=large, team=team)
    assert find_model(models(), small.name, verdict(team)).name == small.name


def test_former_name_goes_before_an_alias(large: ServedModel, team: Team) -> None:
    """The alias was there first. Callers of the former name still reach their model."""
    own = serve(f"{team.slug}/own", team)
    Alias.objects.create(name=own.name, model=large)
    change_slug(team, "nova", actor=None)
    assert find_model(models(), own.name, verdict(team)).name == "nova/own"


def test_model_for_some_teams_is_unknown_to_others(
    large: ServedModel, team: Team, other_team: Team
) -> None:
    Alias.objects.create(name="gpt-4o", model=large)
    before = CatalogVersion.objects.get().version
    large.only_teams.add(other_team)
    assert CatalogVersion.objects.get().version != before
    for name in ("public/large", "gpt-4o"):
        with pytest.raises(ModelNotFound):
            find_model(models(), name, verdict(team))
        assert find_model(models(), name, verdict(other_team))
    assert callable_models(models(), verdict(team)) == []
    assert large not in ServedModel.objects.callable_by(team)
    assert [*ServedModel.objects.callable_by(other_team)] == [large]
    large.only_teams.add(team)
    assert [*ServedModel.objects.callable_by(team)] == [large]


def test_model_for_one_team_is_for_nobody_when_this_team_is_deleted(
    large: ServedModel, team: Team, other_team: Team
) -> None:
    """Attack: without a team in its list, it would be for all. It goes with the team."""
    third = Team.objects.create(name="Third", slug="third")
    large.only_teams.add(other_team, third)
    third.delete()
    assert find_model(models(), "public/large", verdict(other_team))
    other_team.delete()
    with pytest.raises(ModelNotFound):
        find_model(models(), "public/large", verdict(team))
    assert "public/large" not in models()  # Proxies with models of their own ask for no route.


def test_model_that_goes_away_says_so(large: ServedModel) -> None:
    assert models()["public/large"].headers == ()
    large.retires_on, large.successor = date(2027, 1, 31), serve("public/newer")
    large.deprecated_at = datetime(2026, 11, 29, 12, tzinfo=UTC)
    large.save()
    entry = models()["public/large"]
    assert entry.headers == (
        (b"deprecation", b"@1795953600"),
        (b"sunset", b"Sun, 31 Jan 2027 00:00:00 GMT"),
    )
    assert openai_model(entry)["deprecation"] == {
        "sunset": "2027-01-31",
        "successor": "public/newer",
    }
    assert anthropic_model(entry)["lifecycle"] == "deprecated"


def test_names_on_the_page_are_those_of_the_team(
    large: ServedModel, team: Team, other_team: Team
) -> None:
    small = serve("public/small")
    Alias.objects.create(name="b", model=large)
    Alias.objects.create(name="a", model=large)
    Alias.objects.create(name="a", model=small, team=team)
    Alias.objects.create(name="c", model=large, team=other_team)
    assert aliases_for(team, [large, small]) == {large.pk: ["b"], small.pk: ["a"]}


def test_models_page_tells_what_people_need_to_choose(
    sign_in: Callable[[User], Client], vera: User, large: ServedModel
) -> None:
    Alias.objects.create(name="gpt-4o", model=large)
    described: dict[str, Any] = {
        "description": "Good at <long> texts.",
        "context_length": 131_072,
        "takes_pictures": True,
        "takes_tools": True,
        "prices": "0.50 $ in, 1.50 $ out",
        "retires_on": date(2027, 1, 31),
        "successor": serve("public/newer"),
    }
    ServedModel.objects.filter(pk=large.pk).update(**described)
    address = "/teams/u-8105f7322477/models/"
    text = sign_in(vera).get(address).content.decode()
    for part in (
        "Good at &lt;long&gt; texts.",
        "131,072 tokens",
        "Pictures",
        "Tools",
        "0.50 $ in, 1.50 $ out",
        "Goes away 2027-01-31",
        "<code>gpt-4o</code>",
        "Use <code>public/newer</code> instead",
        "model=public%2Fnewer#call",
    ):
        assert part in text
    chosen = sign_in(vera).get(address, {"model": "public/newer"})
    assert chosen.context["examples"].model == "public/newer"
    assert sign_in(vera).get(address, {"model": "x"}).context["examples"].model == "public/large"
