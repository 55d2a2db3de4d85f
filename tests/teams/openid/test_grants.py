"""Groups at an identity provider give roles in teams, and take them back."""

from collections.abc import Callable
from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.core.management import call_command
from django.test import Client

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, UsedSlug, User
from tests.support.identity_provider import ForgingProvider
from tests.teams.openid.conftest import is_signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]
SignIn = Callable[..., Any]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture(autouse=True)
def groups(
    configure: Callable[..., Any], forger: ForgingProvider, team: Team, other_team: Team, bob: User
) -> None:
    """`staff` are members of Bob's team, `leads` its admins and viewers of Charlie's."""
    configure(
        groups={
            "staff": {team.slug: "member"},
            "leads": {team.slug: "admin", other_team.slug: "viewer"},
            "chiefs": {other_team.slug: "owner"},
        }
    )
    forger.claims = {"groups": []}


@pytest.fixture
def dora(team: Team) -> User:
    """Connected, and in no team."""
    user = User.objects.create_user("dora", "dora@example.com")
    SocialAccount.objects.create(user=user, provider="corp", uid="sub-1")
    return user


def roles_of(name: str = "dora") -> dict[str, tuple[str, str]]:
    memberships = Membership.objects.filter(user__username=name)
    return {each.team.name: (each.role, each.granted_by) for each in memberships}


def test_groups_give_roles_and_take_them_back(
    forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    for names, expected in (
        (["staff", "unknown", 7, None], {"Acme": ("member", "corp")}),
        (["staff", "leads"], {"Acme": ("admin", "corp"), "Charlie's": ("viewer", "corp")}),
        ("staff", {"Acme": ("member", "corp")}),
        ({"staff": 1}, {}),
        (["leads"], {"Acme": ("admin", "corp"), "Charlie's": ("viewer", "corp")}),
        (None, {}),
    ):
        forger.claims["groups"] = names
        sign_in_there()
        assert roles_of() == expected, names
    event = AuditEvent.objects.filter(action=Action.MEMBER_CHANGED).order_by("id")[0]
    assert event.target == "Member dora: created, Role: none → member, Granted by: none → corp"
    assert event.team_slug == "u-8105f7322477"


def test_keys_stop_with_the_group(
    dora: User, forger: ForgingProvider, sign_in_there: SignIn, issue: Issue
) -> None:
    forger.claims["groups"] = ["staff"]
    sign_in_there()
    key, _ = issue(dora)
    forger.claims["groups"] = []
    sign_in_there()
    key.refresh_from_db()
    assert key.disabled_at is not None


def test_what_was_given_by_hand_stays(
    team: Team, dora: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    Membership.objects.create(team=team, user=dora, role=Role.VIEWER)
    for names in (["leads"], []):
        forger.claims["groups"] = names
        sign_in_there()
        assert roles_of()["Acme"] == ("viewer", "")


def test_role_changed_by_hand_is_by_hand(
    team: Team, dora: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    forger.claims["groups"] = ["staff"]
    sign_in_there()
    call_command("setrole", team.slug, "dora", "viewer")
    assert roles_of() == {"Acme": ("viewer", "")}
    forger.claims["groups"] = []
    sign_in_there()
    assert roles_of() == {"Acme": ("viewer", "")}


def test_another_provider_changes_only_what_it_gave(
    team: Team, dora: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    Membership.objects.create(team=team, user=dora, role=Role.ADMIN, granted_by="other")
    sign_in_there()
    assert roles_of() == {"Acme": ("admin", "other")}


def test_last_owner_stays_until_there_is_another(
    other_team: Team,
    forger: ForgingProvider,
    sign_in_there: SignIn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    forger.claims["groups"] = ["chiefs"]
    sign_in_there()
    forger.claims["groups"] = ["leads"]
    sign_in_there()
    assert roles_of()["Charlie's"] == ("owner", "corp")
    assert f"dora stays an owner of {other_team.slug}, which has no other" in caplog.text
    chief = User.objects.create_user("chief", is_active=False)
    Membership.objects.create(team=other_team, user=chief, role=Role.OWNER)
    sign_in_there()
    assert roles_of()["Charlie's"] == ("owner", "corp")  # An inactive owner is none.
    User.objects.update(is_active=True)
    sign_in_there()
    assert roles_of()["Charlie's"] == ("viewer", "corp")


def test_team_with_a_new_slug_keeps_its_members(
    team: Team, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    """The settings still have the former one."""
    forger.claims["groups"] = ["leads"]
    sign_in_there()
    UsedSlug.objects.create(slug="renamed", team=team)
    Team.objects.filter(pk=team.pk).update(slug="renamed")
    forger.claims["groups"] = ["staff"]
    sign_in_there()
    assert roles_of() == {"Acme": ("member", "corp")}


def test_unknown_team_is_named_in_the_log(
    forger: ForgingProvider,
    sign_in_there: SignIn,
    configure: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    configure(groups={"staff": {"nowhere": "member"}})
    forger.claims["groups"] = ["staff"]
    sign_in_there()
    assert roles_of() == {}
    assert "the team nowhere, which is unknown" in caplog.text


def test_mapping_that_was_removed_is_taken_back(
    forger: ForgingProvider, sign_in_there: SignIn, configure: Callable[..., Any]
) -> None:
    forger.claims["groups"] = ["leads"]
    sign_in_there()
    configure(groups={})
    sign_in_there()
    assert roles_of() == {}


def test_claim_of_another_name_and_from_the_user_info(
    forger: ForgingProvider, sign_in_there: SignIn, configure: Callable[..., Any]
) -> None:
    configure(groups_claim="roles")
    forger.user_info = {"roles": ["staff"]}
    sign_in_there()
    assert roles_of() == {"Acme": ("member", "corp")}


def test_too_many_groups_for_a_token_change_nothing(
    forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    forger.claims["groups"] = ["staff"]
    sign_in_there()
    forger.claims = {"_claim_names": {"groups": "src1"}}
    sign_in_there()
    assert roles_of() == {"Acme": ("member", "corp")}


def test_own_open_session_does_not_end_the_sign_in(
    client: Client, dora: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    """All sessions of a person end when they lose a team, also the one that is signing in."""
    forger.claims["groups"] = ["staff"]
    sign_in_there()
    assert is_signed_in(client)
    forger.claims["groups"] = []
    assert sign_in_there().url == "/"
    assert is_signed_in(client)
    assert client.get("/").status_code == 200


def test_inactive_person_gets_nothing(
    dora: User, forger: ForgingProvider, sign_in_there: SignIn
) -> None:
    User.objects.filter(pk=dora.pk).update(is_active=False)
    forger.claims["groups"] = ["staff"]
    assert sign_in_there().url == "/accounts/inactive/"
    assert roles_of() == {}
