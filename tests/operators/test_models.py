"""Operators describe models, choose their teams, give them other names and mark their end."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.mail import EmailMessage
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import AuditEvent
from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.lifecycle.changes import change_slug
from keyportal.teams.models import FORMER_SLUG_WORKS, Team, UsedSlug, User
from keyportal.usage.models import UsageDay
from tests.support.cases import own_case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

MODELS = "/operators/models/"
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def public(model: ServedModel) -> ServedModel:
    return ServedModel.objects.create(name="public/large")


def changes(model: ServedModel) -> str:
    rows = AuditEvent.objects.filter(target__startswith=f"Model {model}: ", actor="olga")
    return "; ".join(row.target.partition(": ")[2] for row in rows.order_by("pk"))


def test_operator_describes_a_model(operator: Client, public: ServedModel, team: Team) -> None:
    path = f"{MODELS}{public.pk}/"
    form = form_data(operator.get(path), description="Good at code.", context_length="131072")
    form |= {"prices": "1 $", "takes_tools": "on", "only_teams": [str(team.pk)]}
    assert operator.post(path, form).status_code == 302
    public.refresh_from_db()
    assert (public.description, public.context_length, public.prices) == (
        "Good at code.",
        131072,
        "1 $",
    )
    assert (public.takes_tools, public.takes_pictures) == (True, False)
    assert [*public.only_teams.all()] == [team]
    assert "Description: none → Good at code." in changes(public)
    assert f"Only for: all teams → {team.slug}" in changes(public)


def test_model_is_marked_as_going_away_and_back(operator: Client, public: ServedModel) -> None:
    newer = ServedModel.objects.create(name="public/newer")
    path = f"{MODELS}{public.pk}/"
    form = form_data(operator.get(path), retires_on="2027-01-31", successor=str(newer.pk))
    operator.post(path, form)
    public.refresh_from_db()
    assert (str(public.retires_on), public.successor) == ("2027-01-31", newer)
    marked = public.deprecated_at
    assert marked
    operator.post(path, form_data(operator.get(path), description="Old."))
    public.refresh_from_db()
    assert public.deprecated_at == marked
    assert "Goes away 2027-01-31" in operator.get(MODELS).content.decode()
    operator.post(path, form_data(operator.get(path), retires_on=""))
    unmarked = ServedModel.objects.filter(retires_on=None, deprecated_at=None)
    assert public in unmarked


def test_successor_is_no_model_of_another_team(
    operator: Client, model: ServedModel, public: ServedModel
) -> None:
    """Attack: callers of the public model read the name of a team's own."""
    path = f"{MODELS}{public.pk}/"
    form = form_data(operator.get(path), successor=str(model.pk))
    assert operator.post(path, form).status_code == 422
    own = f"{MODELS}{model.pk}/"
    page = operator.get(own)
    assert "only_teams" not in page.content.decode()
    assert operator.post(own, form_data(page, successor=str(public.pk))).status_code == 302


def test_form_that_is_out_of_date_is_refused(operator: Client, public: ServedModel) -> None:
    path = f"{MODELS}{public.pk}/"
    form = form_data(operator.get(path), description="Mine")
    ServedModel.objects.update(prices="9 $")
    response = operator.post(path, form)
    assert response.status_code == 422
    assert "Changed since you opened this page: prices." in response.content.decode()
    assert ServedModel.objects.get(pk=public.pk).description == ""


def test_alias_is_added_and_deleted(operator: Client, public: ServedModel, team: Team) -> None:
    path = f"{MODELS}{public.pk}/"
    operator.post(f"{path}aliases/add/", {"name": "gpt-4o", "team": ""})
    operator.post(f"{path}aliases/add/", {"name": "gpt-4o", "team": team.pk})
    assert {(alias.name, alias.team) for alias in Alias.objects.all()} == {
        ("gpt-4o", None),
        ("gpt-4o", team),
    }
    assert operator.get(path).content.decode().count('<code class="name">gpt-4o</code>') == 2
    assert "public/large" in operator.get(MODELS, {"q": "GPT-4"}).content.decode()
    alias = Alias.objects.get(team=team)
    assert operator.post(f"{MODELS}4711/aliases/{alias.pk}/delete/").status_code == 404
    assert operator.get(f"{path}aliases/{alias.pk}/delete/")["Location"] == path
    assert operator.post(f"{path}aliases/{alias.pk}/delete/").status_code == 302
    assert Alias.objects.get().team is None
    assert AuditEvent.objects.filter(target="Alias gpt-4o: deleted", actor="olga").exists()


def test_invalid_alias_is_refused(operator: Client, public: ServedModel) -> None:
    cases: list[tuple[str, str]] = [
        ("a b", "Use letters, digits"),
        ("", "This field is required."),
        ("public/large", "A model has this name."),
        ("taken", "This alias exists already."),
        ("sk-kp-7QmX2aPdk3Tz", "contains an API key"),
    ]
    for name, message in cases:
        with own_case(name, message):
            Alias.objects.create(name="taken", model=public)
            response = operator.post(
                f"{MODELS}{public.pk}/aliases/add/", {"name": name, "team": ""}
            )
            assert response.status_code == 422
            assert message in response.content.decode()
            assert Alias.objects.count() == 1


def test_alias_does_not_replace_a_former_name(
    operator: Client, public: ServedModel, model: ServedModel, team: Team
) -> None:
    former = model.name
    change_slug(team, "nova", actor=None)
    response = operator.post(f"{MODELS}{public.pk}/aliases/add/", {"name": former, "team": ""})
    assert response.status_code == 422
    assert "This is the former name of nova/" in response.content.decode()
    UsedSlug.objects.filter(slug="u-8105f7322477").update(
        replaced_at=timezone.now() - FORMER_SLUG_WORKS - timedelta(days=1)
    )
    operator.post(f"{MODELS}{public.pk}/aliases/add/", {"name": former, "team": ""})
    assert Alias.objects.get().name == former


def test_unknown_model_is_404(operator: Client) -> None:
    for path in ("", "aliases/add/", "aliases/1/delete/"):
        with own_case(path):
            assert operator.post(f"{MODELS}4711/{path}").status_code == 404


def test_owners_of_keys_that_call_it_get_a_mail(
    operator: Client,
    public: ServedModel,
    bob: User,
    alice: User,
    issue: Issue,
    mailoutbox: list[EmailMessage],
) -> None:
    """One mail for each owner, about what they called lately."""
    lately, before = timezone.now() - timedelta(days=3), timezone.now() - timedelta(days=40)
    for owner, name, model, start in (
        (bob, "ci", public.name, lately),
        (bob, "batch", public.name, lately),
        (bob, "other", "public/other", lately),
        (alice, "old", public.name, before),
    ):
        key, _ = issue(owner, name)
        UsageDay.objects.create(
            start=start,
            team_slug=key.team.slug,
            public_id=key.public_id,
            owner_id=owner.pk,
            model=model,
            requests=1,
        )
    path = f"{MODELS}{public.pk}/"
    form = form_data(operator.get(path), retires_on="2027-01-31")
    page = operator.post(path, form, follow=True).content.decode()
    assert "get a mail: 1." in page
    [mail] = mailoutbox
    assert mail.to == ["bob@example.com"]
    assert mail.subject == "[Keyportal] The model public/large goes away on 2027-01-31"
    assert "- batch (" in mail.body
    assert "- ci (" in mail.body
    assert "other" not in mail.body
    operator.post(path, form_data(operator.get(path), description="Old."))
    assert len(mailoutbox) == 1
