"""The team's policy, for new, changed, handed over and older keys."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.core.exceptions import PermissionDenied
from django.utils import timezone

from keyportal.audit.models import AuditEvent
from keyportal.keys.changes import Changes, change_key, hand_over
from keyportal.keys.exceptions import NotAMember, PolicyViolation
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.keys.rules.policy import violations, widest_permissions
from keyportal.teams.access import Outsider
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import NO_POLICY, Policy

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]


def key_of(team: Team, owner: User, **values: object) -> ApiKey:
    """Not saved: only to be looked at."""
    return ApiKey(team=team, owner=owner, **{"name": "ci-1", **values})


def rule(team: Team, **rules: object) -> Policy:
    """Give the team this policy."""
    team.policy = Policy(**rules)  # type: ignore[arg-type]  # as the test gives them
    team.save(update_fields=["policy"])
    return team.policy  # type: ignore[no-any-return]  # a field of ours


def days(number: float) -> object:
    return timezone.now() + timedelta(days=number)


def test_empty_policy_has_no_violations(team: Team, bob: User) -> None:
    assert violations(NO_POLICY, key_of(team, bob)) == []
    assert widest_permissions(NO_POLICY) == Permissions()


@pytest.mark.parametrize(
    ("rules", "values", "sentence"),
    [
        ({"must_expire": True}, {"expires_at": None}, "Keys of this team must expire."),
        (
            {"max_lifetime_days": 90},
            {"expires_at": None},
            "Keys of this team must expire within 90 days.",
        ),
        (
            {"max_lifetime_days": 90},
            {"expires_at": 92},
            "Keys of this team must expire within 90 days.",
        ),
        ({"models": ("public/*",)}, {}, "Keys of this team may only call: public/*."),
        (
            {"models": ("public/*",)},
            {"allowed_models": ["public/a", "u-1/a"]},
            "Keys of this team may only call: public/*.",
        ),
        (
            {"endpoints": ("chat", "embeddings")},
            {},
            (
                "Keys of this team may only have these endpoints: "
                "Chat and text generation only; Embeddings only."
            ),
        ),
        ({"name_pattern": "prod-*"}, {}, "Names of keys in this team must match prod-*."),
    ],
)
def test_each_rule_has_its_sentence(
    team: Team, bob: User, rules: dict[str, object], values: dict[str, object], sentence: str
) -> None:
    if isinstance(number := values.get("expires_at"), int):
        values = {"expires_at": days(number)}
    policy = Policy(**rules)  # type: ignore[arg-type]  # one rule each
    assert violations(policy, key_of(team, bob, **values)) == [sentence]


@pytest.mark.parametrize(
    ("rules", "values"),
    [
        ({"must_expire": True}, {"expires_at": 4000}),
        ({"max_lifetime_days": 90}, {"expires_at": 90.5}),  # The end of the ninetieth day.
        ({"models": ("public/*", "u-1/a")}, {"allowed_models": ["public/small*", "u-1/a"]}),
        ({"endpoints": ("chat",)}, {"endpoints": "chat"}),
        ({"endpoints": ("chat",)}, {"endpoints": "read"}),  # Opens nothing that chat doesn't.
        ({"endpoints": ("all",)}, {"endpoints": "embeddings"}),
        ({"name_pattern": "ci-*"}, {}),
        ({"rotation_days": 1}, {}),
    ],
)
def test_compliant_key_has_no_violations(
    team: Team, bob: User, rules: dict[str, object], values: dict[str, object]
) -> None:
    if "expires_at" in values:
        values = {"expires_at": days(values["expires_at"])}  # type: ignore[arg-type]  # a number
    policy = Policy(**rules)  # type: ignore[arg-type]  # one rule each
    assert violations(policy, key_of(team, bob, **values)) == []


def test_all_violations_are_reported_together(team: Team, bob: User) -> None:
    rule(team, must_expire=True, models=("public/*",), endpoints=("chat",), name_pattern="prod-*")
    with pytest.raises(PolicyViolation) as refusal:
        ApiKey.objects.issue(team=team, owner=bob, actor=None, name="ci", permissions=Permissions())
    assert len(refusal.value.violations) == 4
    assert not ApiKey.objects.exists()
    assert not AuditEvent.objects.exists()


def test_key_without_permissions_gets_what_the_policy_allows(
    team: Team, bob: User, issue: Issue
) -> None:
    rule(team, models=("public/*",), endpoints=("read", "embeddings", "chat"))
    key, _ = issue(bob)
    assert key.permissions == Permissions(("public/*",), Endpoints.CHAT)


# Who makes keys, and how many each may have.


def test_policy_sets_the_minimum_role_of_creators(
    team: Team, alice: User, ada: User, bob: User, issue: Issue
) -> None:
    rule(team, min_creator_role="admin")
    with pytest.raises(PolicyViolation, match="Admin and above"):
        issue(bob, actor=bob)
    issue(ada, "by ada", actor=ada)
    issue(alice, "by alice", actor=alice)


@pytest.mark.parametrize("role", [Role.VIEWER, None])
def test_no_key_is_created_by_or_for_somebody_who_may_not_own_it(
    team: Team, bob: User, charlie: User, role: Role | None, issue: Issue
) -> None:
    """Such as somebody whose form was on its way when they were taken out of the team."""
    Membership.objects.filter(user=bob).delete()
    if role:
        Membership.objects.create(team=team, user=bob, role=role)
    for person in (charlie, bob):
        with pytest.raises((Outsider, PermissionDenied)):
            issue(person, actor=person)
        with pytest.raises(NotAMember):
            issue(person)  # By a command.
    assert not ApiKey.objects.exists()


def test_policy_limits_the_keys_of_each_member(
    team: Team, alice: User, bob: User, issue: Issue
) -> None:
    rule(team, max_keys_per_member=2)
    key, _ = issue(bob, "one")
    issue(bob, "two")
    with pytest.raises(PolicyViolation, match="at most 2 keys"):
        issue(bob, "three")
    issue(alice, "hers")
    key.revoke(actor=bob)
    issue(bob, "three")


def test_hand_over_cannot_exceed_the_keys_of_a_member(
    team: Team, alice: User, bob: User, issue: Issue
) -> None:
    rule(team, max_keys_per_member=1)
    issue(bob, "his")
    key, _ = issue(alice, "hers")
    with pytest.raises(PolicyViolation, match="at most 1 keys"):
        hand_over(key, bob, actor=alice)
    key.refresh_from_db()
    assert key.owner == alice


# Of a key that was there before.


@pytest.fixture
def old_key(team: Team, bob: User, issue: Issue) -> ApiKey:
    """Breaks every rule of the policy that its team has given itself since."""
    key, _ = issue(bob, "test", actor=bob, expires_at=days(1000))
    rule(
        team,
        max_lifetime_days=90,
        models=("public/*",),
        endpoints=("chat",),
        name_pattern="ci-*",
        min_creator_role=Role.ADMIN.value,
    )
    return key


def test_unchanged_values_may_violate_the_policy(old_key: ApiKey, bob: User) -> None:
    change_key(old_key, Changes(description="Nightly.", tags=["ci"]), actor=bob)
    change_key(old_key, Changes(name="ci-test"), actor=bob)
    change_key(old_key, Changes(expires_at=days(80)), actor=bob)  # type: ignore[typeddict-item]  # a datetime
    old_key.refresh_from_db()
    assert (old_key.name, old_key.description) == ("ci-test", "Nightly.")
    assert len(violations(old_key.team.policy, old_key)) == 2


@pytest.mark.parametrize(
    "worse",
    [
        Changes(name="prod"),
        Changes(expires_at=None),
        Changes(expires_at=timezone.now() + timedelta(days=2000)),
        Changes(permissions=Permissions(("u-1/a",))),
        Changes(permissions=Permissions(endpoints=Endpoints.EMBEDDINGS)),
    ],
)
def test_violating_key_cannot_be_changed_to_other_violations(
    old_key: ApiKey, bob: User, worse: Changes
) -> None:
    """The attacker's way around a policy: widen a key that is older than it."""
    before = ApiKey.objects.values().get()
    with pytest.raises(PolicyViolation) as refusal:
        change_key(old_key, worse, actor=bob)
    assert len(refusal.value.violations) == 1
    assert ApiKey.objects.values().get() == before


def test_compliant_key_cannot_be_changed_to_violate_the_policy(
    team: Team, bob: User, issue: Issue
) -> None:
    rule(team, models=("public/*",))
    key, _ = issue(bob)
    with pytest.raises(PolicyViolation, match=r"may only call: public/\*"):
        change_key(key, Changes(permissions=Permissions()), actor=bob)
    narrow = Permissions(("public/small",), networks=("10.0.0.0/8",))
    assert change_key(key, Changes(permissions=narrow), actor=bob).permissions == narrow
