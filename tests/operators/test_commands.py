"""setmodel and alias."""

import pytest
from django.core.mail import EmailMessage
from django.core.management import CommandError
from django.utils import timezone

from keyportal.audit.models import AuditEvent
from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import ServedModel
from keyportal.teams.lifecycle.changes import change_slug
from keyportal.teams.models import Team, User
from keyportal.usage.models import UsageDay
from tests.support.cases import own_case
from tests.support.commands import run

pytestmark = pytest.mark.any_database


@pytest.fixture
def public(db: None) -> ServedModel:
    return ServedModel.objects.create(name="public/large")


def targets() -> str:
    return "; ".join(AuditEvent.objects.order_by("pk").values_list("target", flat=True))


def test_model_is_described_and_marked(public: ServedModel, team: Team, other_team: Team) -> None:
    newer = ServedModel.objects.create(name="public/newer")
    printed, _ = run(
        *("setmodel", public.name, "--description", "Good at code.", "--context-length", "131072"),
        *("--tools", "--no-pictures", "--prices", "1 $", "--retires-on", "2027-01-31"),
        *("--successor", newer.name, "--only-teams", team.slug, other_team.slug),
    )
    assert printed == [public.name]
    public.refresh_from_db()
    assert (public.description, public.context_length) == ("Good at code.", 131_072)
    assert (public.takes_tools, public.takes_pictures, public.prices) == (True, False, "1 $")
    assert (str(public.retires_on), public.successor) == ("2027-01-31", newer)
    assert public.deprecated_at
    assert {*public.only_teams.all()} == {team, other_team}
    assert "Description: none → Good at code." in targets()
    assert f"Only for: all teams → {other_team.slug}, {team.slug}" in targets()

    run("setmodel", public.name, "--retires-on", "none", "--successor", "none")
    run("setmodel", public.name, "--context-length", "none", "--only-teams", "all")
    gone = {"retires_on": None, "deprecated_at": None, "successor": None, "context_length": None}
    assert ServedModel.objects.filter(description="Good at code.", **gone).get() == public
    assert not public.only_teams.exists()


def test_callers_of_a_model_that_goes_away_get_a_mail(
    public: ServedModel, bob: User, issue: object, mailoutbox: list[EmailMessage]
) -> None:
    key, _ = issue(bob)  # type: ignore[operator]  # the fixture of all tests
    UsageDay.objects.create(
        start=timezone.now(),
        team_slug=key.team.slug,
        public_id=key.public_id,
        owner_id=bob.pk,
        model=public.name,
        requests=1,
    )
    _, told = run("setmodel", public.name, "--retires-on", "2027-01-31")
    assert "get a mail: 1." in told
    assert [mail.to for mail in mailoutbox] == [["bob@example.com"]]


def test_setmodel_refuses_and_changes_nothing(public: ServedModel) -> None:
    cases: list[tuple[list[str], str]] = [
        (["public/large"], "Nothing to change"),
        (["public/other", "--prices=1"], "There is no model named public/other."),
        (["public/large", "--only-teams=nowhere"], "There is no team with the slug nowhere."),
        (["public/large", "--successor=public/large"], "public/large can't follow"),
        (["public/large", "--context-length=many"], "invalid value: 'many'"),
        (["public/large", "--context-length=-1"], "greater than or equal to 0"),
        (["public/large", "--retires-on=2027-02-30"], "invalid value: '2027-02-30'"),
        (["public/large", "--description=sk-kp-7QmX2aPdk3Tz"], "contains an API key"),
    ]
    for arguments, message in cases:
        with own_case(arguments, message):
            before = ServedModel.objects.values().get()
            with pytest.raises(CommandError, match=message):
                run("setmodel", *arguments)
            assert ServedModel.objects.values().get() == before


def test_model_of_a_team_stays_its_own(public: ServedModel, model: ServedModel, team: Team) -> None:
    with pytest.raises(CommandError, match="is a model of the team"):
        run("setmodel", model.name, "--only-teams", team.slug)
    with pytest.raises(CommandError, match="can't follow"):
        run("setmodel", public.name, "--successor", model.name)
    run("setmodel", model.name, "--successor", public.name)
    assert ServedModel.objects.get(pk=model.pk).successor == public


def test_alias_is_made_changed_listed_and_deleted(
    public: ServedModel, model: ServedModel, team: Team
) -> None:
    small = ServedModel.objects.create(name="public/small")
    assert run("alias", "gpt-4o", "--model", public.name)[0] == ["gpt-4o"]
    run("alias", "gpt-4o", "--model", model.name, "--team", team.slug)
    run("alias", "gpt-4o", "--model", small.name)
    own = f"gpt-4o\t{model.name}\t{team.slug}"
    assert sorted(run("alias")[0]) == sorted(["gpt-4o\tpublic/small\tall", own])
    assert run("alias", "--team", team.slug)[0] == [own]
    assert "Alias gpt-4o: Model: public/large → public/small" in targets()
    run("alias", "gpt-4o", "--delete")
    assert run("alias")[0] == [own]
    with pytest.raises(CommandError, match="no alias gpt-4o for all teams"):
        run("alias", "gpt-4o", "--delete")


def test_alias_is_refused(public: ServedModel, model: ServedModel, team: Team) -> None:
    former = model.name
    change_slug(team, "nova", actor=None)
    for arguments, message in (
        (["gpt-4o"], "needs --model or --delete"),
        (["--model=public/large"], "these need an alias"),
        (["gpt-4o", "--model=public/none"], "There is no model named public/none."),
        (["public/large", "--model=public/large"], "A model has this name."),
        ([former, "--model=public/large"], "This is the former name of nova/"),
        (["a b", "--model=public/large"], "Use letters, digits"),
    ):
        with pytest.raises(CommandError, match=message):
            run("alias", *arguments)
    assert not Alias.objects.exists()
