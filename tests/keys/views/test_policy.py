"""The team's policy: who can see it, who can set it, and its effect."""

from collections.abc import Callable

import pytest
from django.test import Client

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.exceptions import PolicyViolation
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import LABELS, NO_POLICY, Policy
from tests.support.cases import case

pytestmark = pytest.mark.any_database

POLICY = "/teams/u-8105f7322477/policy/"
KEYS = "/teams/u-8105f7322477/keys/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def policy_form(**rules: object) -> dict[str, object]:
    """The form as a browser sends it: no box is ticked, and most fields are empty."""
    fields = set(LABELS) - {"must_expire", "endpoints"}
    chosen: dict[str, object] = {"min_creator_role": "member"}
    return dict.fromkeys(fields, "") | chosen | rules


def test_admin_sets_every_rule(sign_in: SignIn, ada: User, team: Team) -> None:
    rules = policy_form(
        max_lifetime_days="90",
        must_expire="on",
        models="public/*,\n u-8105f7322477/test public/*",
        endpoints=["chat", "read"],
        max_keys_per_member="3",
        name_pattern="ci-*",
        min_creator_role="admin",
        rotation_days="30",
    )
    response = sign_in(ada).post(POLICY, rules, follow=True)
    assert response.redirect_chain == [(POLICY, 302)]
    assert "The policy is changed." in response.content.decode()
    team.refresh_from_db()
    assert team.policy == Policy(
        max_lifetime_days=90,
        must_expire=True,
        models=("public/*", "u-8105f7322477/test"),
        endpoints=("chat", "read"),
        max_keys_per_member=3,
        name_pattern="ci-*",
        min_creator_role="admin",
        rotation_days=30,
    )


def test_form_shows_the_policy_and_saving_it_unchanged_changes_nothing(
    sign_in: SignIn, ada: User, team: Team
) -> None:
    rules = Policy(
        max_lifetime_days=90, models=("public/*",), endpoints=("chat",), min_creator_role="owner"
    )
    Team.objects.update(policy=rules)
    client = sign_in(ada)
    page = client.get(POLICY)
    initial = page.context["form"].initial
    assert {name: initial[name] for name in rules._fields} == rules._asdict()
    text = page.content.decode()
    assert 'value="90"' in text
    assert "public/*</textarea>" in text
    same = policy_form(
        max_lifetime_days="90", models="public/*", endpoints=["chat"], min_creator_role="owner"
    )
    client.post(POLICY, same)
    team.refresh_from_db()
    assert team.policy == rules
    assert not AuditEvent.objects.filter(action=Action.TEAM_CHANGED).exists()


def test_audit_has_old_and_new_values(sign_in: SignIn, ada: User, team: Team) -> None:
    Team.objects.update(policy=Policy(max_lifetime_days=90))
    sign_in(ada).post(POLICY, policy_form(max_lifetime_days="30", min_creator_role="owner"))
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    changes = "Maximum lifetime in days: 90 → 30, Lowest role that can create keys: member → owner"
    assert event.target == f"Policy: {changes}"
    assert (event.actor, event.address) == ("ada", "127.0.0.1")


def test_every_rule_can_be_removed(sign_in: SignIn, ada: User, team: Team) -> None:
    Team.objects.update(policy=Policy(90, True, ("a",), ("chat",), 2, "ci-*", "owner", 5))
    sign_in(ada).post(POLICY, policy_form())
    team.refresh_from_db()
    assert team.policy == NO_POLICY


def test_invalid_value_is_an_error_of_its_field(sign_in: SignIn, ada: User, team: Team) -> None:
    client = sign_in(ada)
    for field, nonsense in (
        ("max_lifetime_days", "0"),
        ("max_lifetime_days", "99999"),
        ("rotation_days", "soon"),
        ("max_keys_per_member", "-1"),
        ("models", "*a*b*c*d"),
        ("endpoints", "everything"),
        ("min_creator_role", "viewer"),
        ("name_pattern", "*a*b*c*"),
        ("name_pattern", "sk-kp-" + "A" * 40),
    ):
        response = client.post(POLICY, policy_form(**{field: nonsense}))
        with case(field, nonsense):
            assert response.status_code == 422
            assert list(response.context["form"].errors) == [field]
            assert f'id="id_{field}_error" role="alert"' in response.content.decode()
    team.refresh_from_db()
    assert team.policy == NO_POLICY


def test_older_keys_keep_working_and_are_listed(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    issue(bob, "<b>old")
    client = sign_in(ada)
    assert "violate the policy" not in client.get(POLICY).content.decode()
    client.post(POLICY, policy_form(max_lifetime_days="30"))
    text = client.get(POLICY).content.decode()
    assert "1 existing key violates the policy" in text
    assert "&lt;b&gt;old" in text
    assert "Keys of this team must expire within 30 days." in text
    assert ApiKey.objects.get().disabled_at is None


def test_members_over_the_key_limit_are_listed(
    sign_in: SignIn, ada: User, alice: User, bob: User, issue: Issue
) -> None:
    for owner, name in ((bob, "a"), (bob, "b"), (bob, "c"), (alice, "d"), (alice, "e")):
        issue(owner, name)
    client = sign_in(ada)
    assert "Members with more keys" not in client.get(POLICY).content.decode()
    client.post(POLICY, policy_form(max_keys_per_member="2"))
    text = client.get(POLICY).content.decode()
    assert '<span class="name">bob</span> has 3 keys.' in text
    assert "alice</span> has" not in text
    assert ApiKey.objects.filter(disabled_at=None).count() == 5


def test_members_see_the_policy_and_only_their_own_violating_keys(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    issue(alice, "of-alice")
    issue(bob, "of-bob")
    Team.objects.update(policy=Policy(max_lifetime_days=30))
    text = sign_in(bob).get(POLICY).content.decode()
    assert "<dt>Maximum lifetime in days</dt><dd>30</dd>" in text
    assert "of-bob" in text
    assert "of-alice" not in text
    assert "<textarea" not in text


def test_member_cannot_set_the_policy(sign_in: SignIn, bob: User, team: Team) -> None:
    response = sign_in(bob).post(
        POLICY, policy_form(min_creator_role="member", max_keys_per_member="1000")
    )
    assert response.status_code == 403
    assert "This needs the role Admin" in response.content.decode()
    team.refresh_from_db()
    assert team.policy == NO_POLICY


def test_viewer_is_refused_with_the_reason(sign_in: SignIn, vera: User) -> None:
    for response in (sign_in(vera).get(POLICY), sign_in(vera).post(POLICY)):
        assert response.status_code == 403


# Who may create.


def test_user_who_cannot_create_keys_has_no_button_and_no_form(
    sign_in: SignIn, ada: User, bob: User
) -> None:
    Team.objects.update(policy=Policy(min_creator_role="admin"))
    create = f"{KEYS}create/"
    assert create not in sign_in(bob).get(KEYS).content.decode()
    for response in (sign_in(bob).get(create), sign_in(bob).post(create, {"name": "mine"})):
        assert response.status_code == 403
        assert "This needs the role Admin" in response.content.decode()
    assert not ApiKey.objects.exists()
    assert create in sign_in(ada).get(KEYS).content.decode()
    assert sign_in(ada).post(create, {"name": "hers"}).status_code == 200


def test_viewer_cannot_create_keys_under_any_policy(sign_in: SignIn, vera: User) -> None:
    """Not even one that somebody wrote into the database."""
    Team.objects.update(policy=Policy(min_creator_role="viewer"))
    assert sign_in(vera).post(f"{KEYS}create/", {"name": "mine"}).status_code == 403
    assert not ApiKey.objects.exists()


def test_creator_who_loses_the_role_meanwhile_creates_no_key(team: Team, ada: User) -> None:
    """The form was opened before."""
    Team.objects.update(policy=Policy(min_creator_role="admin"))
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    with pytest.raises(
        PolicyViolation, match="Only these roles can create keys in this team: Admin and above"
    ):
        ApiKey.objects.issue(team=team, owner=ada, actor=ada, name="late")
    assert ApiKey.objects.count() == 0


def test_operator_is_bound_by_rules_on_keys_but_not_by_creator_role(team: Team, bob: User) -> None:
    Team.objects.update(policy=Policy(min_creator_role="owner", models=("public/*",)))
    key, _ = ApiKey.objects.issue(team=team, owner=bob, actor=None, name="by-command")
    assert key.permissions == Permissions(models=("public/*",))
    with pytest.raises(PolicyViolation, match="Keys of this team may only call"):
        ApiKey.objects.issue(
            team=team, owner=bob, actor=None, name="wide", permissions=Permissions()
        )
