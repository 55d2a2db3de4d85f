"""Templates for keys: admins create, change and delete them."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
from django.test import Client

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import KeyTemplate, lock_template, save_template
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.cases import case

pytestmark = pytest.mark.any_database

TEMPLATES = "/teams/u-8105f7322477/templates/"
CREATE = f"{TEMPLATES}create/"
SignIn = Callable[[User], Client]


def template_form(name: str = "CI job", **more: str) -> dict[str, str]:
    empty = {"endpoints": "all", "models": "", "networks": "", "lifetime_days": ""}
    return {"name": name} | empty | more


@pytest.fixture
def template(team: Team) -> KeyTemplate:
    return KeyTemplate.objects.create(
        team=team, name="CI job", endpoints=Endpoints.CHAT, allowed_models=["public/*"]
    )


@pytest.fixture
def paths(template: KeyTemplate) -> list[str]:
    one = f"{TEMPLATES}{template.pk}/"
    return [TEMPLATES, CREATE, f"{one}change/", f"{one}delete/"]


def test_admin_creates_a_template(sign_in: SignIn, ada: User, team: Team) -> None:
    client = sign_in(ada)
    assert "No templates yet." in client.get(TEMPLATES).content.decode()
    form = template_form(
        "<b>CI", endpoints="chat", models="public/*", networks="192.0.2.0/24", lifetime_days="30"
    )
    response = client.post(CREATE, form, follow=True)
    assert response.redirect_chain == [(TEMPLATES, 302)]
    text = response.content.decode()
    assert "The template &lt;b&gt;CI is created." in text
    assert "30 days" in text
    template = KeyTemplate.objects.get()
    assert template.permissions == Permissions(("public/*",), Endpoints.CHAT, ("192.0.2.0/24",))
    assert (template.team, template.lifetime_days) == (team, 30)
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    assert event.target == (
        "Template <b>CI: created, Models: all → public/*, Endpoints: all → chat, "
        "Networks: all → 192.0.2.0/24, Lifetime in days: none → 30"
    )
    assert (event.actor, event.address) == ("ada", "127.0.0.1")


def test_admin_changes_a_template(
    sign_in: SignIn, ada: User, team: Team, template: KeyTemplate
) -> None:
    path = f"{TEMPLATES}{template.pk}/change/"
    client = sign_in(ada)
    assert 'value="CI job"' in client.get(path).content.decode()
    client.post(path, template_form("nightly", endpoints="chat", models="public/small"))
    template.refresh_from_db()
    assert (template.name, template.allowed_models) == ("nightly", ["public/small"])
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    changes = "Name: CI job → nightly, Models: public/* → public/small"
    assert event.target == f"Template CI job: {changes}"
    client.post(path, template_form("nightly", endpoints="chat", models="public/small"))
    assert AuditEvent.objects.filter(action=Action.TEAM_CHANGED).count() == 1


def test_admin_deletes_a_template(
    sign_in: SignIn, ada: User, team: Team, template: KeyTemplate
) -> None:
    path = f"{TEMPLATES}{template.pk}/delete/"
    client = sign_in(ada)
    assert "will no longer be offered" in client.get(path).content.decode()
    assert KeyTemplate.objects.exists()
    response = client.post(path, follow=True)
    assert "The template CI job is deleted." in response.content.decode()
    assert not KeyTemplate.objects.exists()
    assert AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED).target == (
        "Template CI job: deleted"
    )
    assert client.post(path).status_code == 404


def test_template_name_is_unique_in_a_team(
    sign_in: SignIn, ada: User, other_team: Team, template: KeyTemplate
) -> None:
    KeyTemplate.objects.create(team=other_team, name="theirs")
    client = sign_in(ada)
    response = client.post(CREATE, template_form("CI job"))
    assert response.status_code == 422
    assert "already exists in the team" in response.context["form"].errors["name"][0]
    assert client.post(CREATE, template_form("theirs")).status_code == 302


def test_invalid_or_forbidden_value_is_an_error_of_its_field(sign_in: SignIn, ada: User) -> None:
    policy = Policy(max_lifetime_days=89, models=("public/*",), endpoints=("chat",))
    Team.objects.update(policy=policy)
    client = sign_in(ada)
    for field, form in (
        ("name", template_form("")),
        ("name", template_form("sk-kp-" + "A" * 40)),
        ("name", template_form("a\u202eb")),
        ("endpoints", template_form(endpoints="everything")),
        ("models", template_form(models="*a*b*c*d")),
        ("networks", template_form(networks="nowhere")),
        ("networks", template_form(networks="192.0.2.1/24")),
        ("lifetime_days", template_form(lifetime_days="0")),
        ("lifetime_days", template_form(lifetime_days="99999")),
        # Of the policy below.
        ("models", template_form(models="secret/*")),
        ("endpoints", template_form(endpoints="embeddings")),
        ("lifetime_days", template_form(lifetime_days="91")),
    ):
        response = client.post(CREATE, form)
        with case(field, form[field]):
            assert response.status_code == 422
            assert list(response.context["form"].errors) == [field]
            assert not KeyTemplate.objects.exists()


def test_template_that_violates_a_newer_policy_is_marked(
    sign_in: SignIn, ada: User, template: KeyTemplate
) -> None:
    client = sign_in(ada)
    assert "Violates the policy" not in client.get(TEMPLATES).content.decode()
    Team.objects.update(policy=Policy(models=("secret/*",)))
    assert "Violates the policy" in client.get(TEMPLATES).content.decode()


def test_values_that_a_template_leaves_open_come_from_the_policy(team: Team) -> None:
    policy = Policy(models=("public/*",), endpoints=("embeddings",))
    template = KeyTemplate(team=team, name="open", allowed_networks=["192.0.2.0/24"])
    expected = Permissions(("public/*",), Endpoints.EMBEDDINGS, ("192.0.2.0/24",))
    assert template.permissions_within(policy) == expected
    assert template.violations(policy) == []


def test_saving_a_deleted_template_does_not_create_it_again(
    sign_in: SignIn, ada: User, template: KeyTemplate
) -> None:
    opened = KeyTemplate.objects.get()
    template.delete()
    with pytest.raises(KeyTemplate.DoesNotExist):
        save_template(opened, actor=ada)
    assert not KeyTemplate.objects.exists()


def test_template_deleted_while_its_form_is_saved_shows_a_message(
    sign_in: SignIn, ada: User, template: KeyTemplate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked_later(found: KeyTemplate, *, actor: User) -> AbstractContextManager[KeyTemplate]:
        KeyTemplate.objects.all().delete()
        return lock_template(found, actor=actor)

    monkeypatch.setattr("keyportal.keys.views.templates.lock_template", locked_later)
    response = sign_in(ada).post(f"{TEMPLATES}{template.pk}/change/", template_form("nightly"))
    assert response.status_code == 404
    assert not KeyTemplate.objects.exists()


def test_members_are_refused_with_the_reason(sign_in: SignIn, bob: User, paths: list[str]) -> None:
    for path in paths:
        for response in (sign_in(bob).get(path), sign_in(bob).post(path, template_form("mine"))):
            assert response.status_code in {403, 405}
    assert [template.name for template in KeyTemplate.objects.all()] == ["CI job"]


def test_outsiders_get_404(sign_in: SignIn, charlie: User, paths: list[str]) -> None:
    for path in paths:
        assert sign_in(charlie).get(path).status_code == 404


def test_template_of_another_team_is_404(
    sign_in: SignIn, charlie: User, other_team: Team, template: KeyTemplate
) -> None:
    client = sign_in(charlie)
    for action in ("change", "delete"):
        path = f"/teams/{other_team.slug}/templates/{template.pk}/{action}/"
        assert client.get(path).status_code == 404
        assert client.post(path, template_form("stolen")).status_code == 404
    template.refresh_from_db()
    assert template.name == "CI job"
