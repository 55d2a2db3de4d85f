"""The options of a new key, and how the team's policy restricts them."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.exceptions import PolicyViolation
from keyportal.keys.forms.create import CreateForm
from keyportal.keys.models import ApiKey, KeyTemplate
from keyportal.keys.rules.permissions import UNRESTRICTED, Endpoints, Permissions
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.cases import case

pytestmark = pytest.mark.any_database

CREATE = "/teams/u-8105f7322477/keys/create/"
HTMX = {"HX-Request": "true"}
STRICT = Policy(max_lifetime_days=90, models=("public/*",), endpoints=("chat", "read"))
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def template(team: Team) -> KeyTemplate:
    return KeyTemplate.objects.create(
        team=team,
        name="CI job",
        endpoints=Endpoints.CHAT,
        allowed_models=["public/small"],
        allowed_networks=["192.0.2.0/24"],
        lifetime_days=30,
    )


def lives_for(key: ApiKey, days: int) -> bool:
    left = key.expires_at - timezone.now() if key.expires_at else timedelta()
    return timedelta(days=days, minutes=-5) < left <= timedelta(days=days)


def test_each_form_has_a_nonce_of_its_own(team: Team, bob: User) -> None:
    creator = bob.memberships.get()
    marks = {CreateForm(team=team, creator=creator)["nonce"].value() for _ in range(3)}
    assert len(marks) == 3
    assert all(len(mark) >= 20 for mark in marks)


def test_name_alone_is_enough(sign_in: SignIn, bob: User) -> None:
    assert sign_in(bob).post(CREATE, {"name": "nightly"}).status_code == 200
    key = ApiKey.objects.get()
    assert (key.expires_at, key.permissions, key.description) == (None, UNRESTRICTED, "")


def test_name_alone_gets_the_defaults_of_the_policy(sign_in: SignIn, bob: User) -> None:
    Team.objects.update(policy=STRICT)
    assert sign_in(bob).post(CREATE, {"name": "nightly"}).status_code == 200
    key = ApiKey.objects.get()
    assert key.permissions == Permissions(("public/*",), Endpoints.CHAT)
    assert lives_for(key, 90)


def test_all_options_can_be_set(sign_in: SignIn, bob: User) -> None:
    form = {
        "name": "nightly",
        "lifetime": "30",
        "description": "The nightly report,\nof finance.",
        "tags": "ci, batch CI",
        "endpoints": "embeddings",
        "models": "public/*",
        "networks": "192.0.2.0/24 2001:db8::/32",
    }
    sign_in(bob).post(CREATE, form)
    key = ApiKey.objects.get()
    networks = ("192.0.2.0/24", "2001:db8::/32")
    assert key.permissions == Permissions(("public/*",), Endpoints.EMBEDDINGS, networks)
    assert key.description == "The nightly report,\nof finance."
    assert key.tags == ["ci", "batch"]
    assert lives_for(key, 30)


def test_options_are_collapsed_and_templates_hidden_if_there_are_none(
    sign_in: SignIn, bob: User, team: Team
) -> None:
    text = sign_in(bob).get(CREATE, headers=HTMX).content.decode()
    assert "Template" not in text
    assert '<details class="more">' in text
    assert "never" in text


# Templates.


def test_template_sets_permissions_and_lifetime(
    sign_in: SignIn, bob: User, template: KeyTemplate
) -> None:
    client = sign_in(bob)
    assert "CI job</option>" in client.get(CREATE).content.decode()
    form = {"name": "nightly", "template": str(template.pk), "lifetime": "", "endpoints": ""}
    client.post(CREATE, form)
    key = ApiKey.objects.get()
    assert key.permissions == template.permissions
    assert lives_for(key, 30)


def test_entered_values_override_the_template(
    sign_in: SignIn, bob: User, template: KeyTemplate
) -> None:
    form = {
        "name": "nightly",
        "template": str(template.pk),
        "lifetime": "7",
        "models": "public/large",
    }
    sign_in(bob).post(CREATE, form)
    key = ApiKey.objects.get()
    assert key.allowed_models == ["public/large"]
    assert key.endpoints == Endpoints.CHAT
    assert lives_for(key, 7)


def test_entered_star_overrides_the_models_of_the_template(
    sign_in: SignIn, bob: User, template: KeyTemplate
) -> None:
    form = {"name": "nightly", "template": str(template.pk), "lifetime": "7", "models": " * "}
    sign_in(bob).post(CREATE, form)
    assert ApiKey.objects.get().permissions == template.permissions._replace(models=())


def test_template_of_another_team_cannot_be_chosen(
    sign_in: SignIn, bob: User, other_team: Team, template: KeyTemplate
) -> None:
    theirs = KeyTemplate.objects.create(team=other_team, name="theirs-alone")
    client = sign_in(bob)
    assert "theirs-alone" not in client.get(CREATE).content.decode()
    for number in (str(theirs.pk), "99999", "x"):
        response = client.post(CREATE, {"name": "nightly", "template": number})
        assert response.status_code == 422
        assert "template" in response.context["form"].errors
    assert not ApiKey.objects.exists()


def test_template_that_violates_the_policy_shows_the_error(
    sign_in: SignIn, bob: User, template: KeyTemplate
) -> None:
    Team.objects.update(policy=Policy(max_lifetime_days=7, models=("secret/*",)))
    response = sign_in(bob).post(CREATE, {"name": "nightly", "template": str(template.pk)})
    assert response.status_code == 422
    assert response.context["form"].errors["template"] == [
        "Keys of this team must expire within 7 days.",
        "Keys of this team may only call: secret/*.",
    ]
    assert not ApiKey.objects.exists()


# The policy, against whoever writes the request by hand.


def test_crafted_form_cannot_exceed_the_policy(sign_in: SignIn, bob: User) -> None:
    Team.objects.update(policy=STRICT)
    client = sign_in(bob)
    forms: list[tuple[dict[str, str], str]] = [
        ({"models": "public/* secret/x"}, "models"),
        ({"models": "*"}, ""),  # No bound at all, so the policy's.
        ({"models": "p*"}, "models"),
        ({"endpoints": "all"}, "endpoints"),
        ({"endpoints": "embeddings"}, "endpoints"),
        ({"endpoints": "read"}, ""),
        ({"lifetime": "never"}, "lifetime"),
        ({"lifetime": "365"}, "lifetime"),
        ({"lifetime": "91"}, "lifetime"),
        ({"lifetime": "date", "expiry_date": "2199-01-01"}, "expiry_date"),
        ({"lifetime": "date"}, "expiry_date"),
        ({"expires_at": "2199-01-01"}, ""),  # No field of the form.
        ({"permissions": "all"}, ""),
    ]
    for form, field in forms:
        response = client.post(CREATE, {"name": "nightly"} | form, headers=HTMX)
        with case(form):
            if field:
                assert response.status_code == 422
                assert list(response.context["form"].errors) == [field]
                assert not ApiKey.objects.exists()
                continue
            key = ApiKey.objects.get()
            assert Permissions(STRICT.models, Endpoints.CHAT).covers(key.permissions)
            assert lives_for(key, 90)
            key.delete()


def test_date_beyond_the_policy_is_an_error_of_the_date_field(sign_in: SignIn, bob: User) -> None:
    Team.objects.update(policy=STRICT)
    day = str(timezone.now().date() + timedelta(days=92))
    response = sign_in(bob).post(CREATE, {"name": "a", "lifetime": "date", "expiry_date": day})
    assert list(response.context["form"].errors) == ["expiry_date"]
    day = str(timezone.now().date() + timedelta(days=90))
    response = sign_in(bob).post(CREATE, {"name": "a", "lifetime": "date", "expiry_date": day})
    assert response.status_code == 200


def test_name_pattern_is_shown_and_enforced(sign_in: SignIn, bob: User) -> None:
    Team.objects.update(policy=Policy(name_pattern="ci-*"))
    client = sign_in(bob)
    assert "<code>ci-*</code>" in client.get(CREATE).content.decode()
    response = client.post(CREATE, {"name": "nightly"})
    expected = ["Names of keys in this team must match ci-*."]
    assert response.context["form"].errors["name"] == expected
    assert client.post(CREATE, {"name": "ci-nightly"}).status_code == 200


def test_member_at_the_key_limit_is_told_before_filling_the_form(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    Team.objects.update(policy=Policy(max_keys_per_member=1))
    issue(bob, "mine")
    client = sign_in(bob)
    message = "A member of this team can have at most 1 keys."
    text = client.get(CREATE).content.decode()
    assert message in text
    assert "create-ok" not in text
    response = client.post(CREATE, {"name": "another"})
    assert response.status_code == 422
    assert message in response.content.decode()
    assert sign_in(alice).post(CREATE, {"name": "hers"}).status_code == 200


def test_policy_changed_after_validation_is_enforced(
    sign_in: SignIn, bob: User, team: Team
) -> None:
    form = CreateForm({"name": "nightly"}, team=team, creator=bob.memberships.get())
    assert form.is_valid()
    Team.objects.update(policy=STRICT)
    with pytest.raises(PolicyViolation, match="Keys of this team must expire"):
        ApiKey.objects.issue(team=team, actor=bob, **form.issue_arguments)
    assert not ApiKey.objects.exists()


def test_refused_form_keeps_its_values_and_is_not_audited(sign_in: SignIn, bob: User) -> None:
    Team.objects.update(policy=STRICT)
    text = (
        sign_in(bob)
        .post(CREATE, {"name": "a", "models": "secret/x", "description": "<i>"}, headers=HTMX)
        .content.decode()
    )
    assert '<details class="more" open>' in text
    assert "secret/x</textarea>" in text
    assert "&lt;i&gt;</textarea>" in text
    assert not AuditEvent.objects.filter(action=Action.KEY_CREATED).exists()
