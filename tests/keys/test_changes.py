"""Changing a key: the change, its audit row with old and new values, and errors."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from django.utils import timezone

from keyportal.audit.models import TARGET_LENGTH, Action, AuditEvent
from keyportal.keys.changes import Changes, change_key, disable, enable, hand_over
from keyportal.keys.exceptions import LeakNotAccepted, NameTaken, NotAMember
from keyportal.keys.limits import set_key_limits
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, revoke_old_secret, rotate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Team, User

Issue = Callable[..., tuple[ApiKey, str]]
ADDRESS = "192.0.2.1"


def audit_targets(team: Team, action: Action = Action.KEY_CHANGED) -> list[str]:
    """What the audit says, the oldest first."""
    rows = AuditEvent.objects.for_team(team).with_action(action).order_by("pk")
    return [row.target for row in rows]


@pytest.mark.any_database
def test_change_is_audited_with_old_and_new_values(team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "test")
    changes = Changes(
        name="ci",
        description="Nightly.",
        tags=("ci", "night"),
        permissions=Permissions(("public/*",), Endpoints.CHAT),
        expires_at=datetime(2030, 1, 31, 18, tzinfo=UTC),
    )
    changed = change_key(key, changes, actor=bob, address=ADDRESS)
    key.refresh_from_db()
    assert (key.name, key.description, key.tags) == ("ci", "Nightly.", ["ci", "night"])
    assert key.permissions == changed.permissions == changes["permissions"]
    assert key.expires_at == changes["expires_at"]
    assert audit_targets(team) == [
        (
            f"test ({key.public_id}): Name: test → ci, Description: none → Nightly., "
            "Tags: none → ci, night, Models: all → public/*, Endpoints: all → chat, "
            "Expires: none → 2030-01-31 18:00 UTC"
        )
    ]
    row = AuditEvent.objects.for_team(team).for_key(key.public_id)[0]
    assert (row.action, row.actor, row.address) == (Action.KEY_CHANGED, "bob", ADDRESS)


@pytest.mark.any_database
def test_omitted_fields_stay_and_none_removes_the_expiry(
    team: Team, bob: User, issue: Issue
) -> None:
    end = datetime(2030, 1, 31, tzinfo=UTC)
    key, _ = issue(bob, "test", actor=bob, expires_at=end, tags=("a",), description="Mine.")
    change_key(key, Changes(name="ci"), actor=bob)
    key.refresh_from_db()
    assert (key.expires_at, key.tags, key.description) == (end, ["a"], "Mine.")
    change_key(key, Changes(expires_at=None), actor=bob)
    key.refresh_from_db()
    assert key.expires_at is None
    assert audit_targets(team)[-1].endswith("Expires: 2030-01-31 00:00 UTC → none")


@pytest.mark.any_database
def test_change_to_the_same_values_is_not_audited(team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "test", tags=("a",))
    same = Changes(name="test", tags=("a",), permissions=Permissions(), expires_at=None)
    change_key(key, same, actor=bob)
    change_key(key, Changes(), actor=bob)
    assert audit_targets(team) == []


def test_long_values_are_audited_in_full(team: Team, bob: User, issue: Issue) -> None:
    """What does not fit into one row goes on in the next: an audit that hides is none."""
    names = tuple(f"public/a-model-with-a-long-name-{number:02}" for number in range(16))
    key, _ = issue(bob, "test", permissions=Permissions(names))
    change_key(key, Changes(permissions=Permissions(names[:8])), actor=bob)
    rows = audit_targets(team)
    prefix = f"test ({key.public_id}): "
    assert len(rows) > 1
    assert all(row.startswith(prefix) and len(row) <= TARGET_LENGTH for row in rows)
    words = " ".join(row.removeprefix(prefix).replace(", ", " ") for row in rows).split()
    assert words == ["Models:", *names, "→", *names[:8]]


@pytest.mark.any_database
def test_very_long_values_are_cut_where_they_are_alike(team: Team, bob: User, issue: Issue) -> None:
    """Attack: a member changes a key with a hundred long patterns again and again, and each time
    fills hundreds of rows. Or hides a new pattern behind others.
    """
    names = tuple(f"public/{'a-model-with-a-long-name' * 7}-{number:02}" for number in range(99))
    key, _ = issue(bob, "test", permissions=Permissions(names))
    change_key(key, Changes(permissions=Permissions((*names, "public/sly"))), actor=bob)
    change_key(key, Changes(permissions=Permissions(("public/*", *names))), actor=bob)
    rows = audit_targets(team)
    assert len(rows) <= 2 * 10
    text = " ".join(rows)
    assert "public/sly" in text
    assert "public/*" in text
    assert "…" in text


@pytest.mark.any_database
def test_values_that_differ_at_the_end_are_audited_in_full(
    team: Team, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, f"{'x' * 61}dev", tags=("a", "b"))
    change_key(key, Changes(name=f"{'x' * 61}prd"), actor=bob)
    change_key(key, Changes(tags=("a", "b", *(f"{number}" * 30 for number in range(5)))), actor=bob)
    change_key(key, Changes(description=f"{'words ' * 80}end"), actor=bob)
    words = " ".join(row.partition("): ")[2] for row in audit_targets(team)).split()
    assert words[:4] == ["Name:", f"{'x' * 61}dev", "→", f"{'x' * 61}prd"]
    assert words[4:7] == ["Tags:", "a,", "b"]
    assert words[words.index(f"{'3' * 30},") + 1] == "4" * 30
    assert words[-1] == "end"
    assert words.count("words") == 80


def test_taken_name_is_refused(team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "one")
    issue(bob, "two")
    with pytest.raises(NameTaken):
        change_key(key, Changes(name="two", description="new"), actor=bob)
    key.refresh_from_db()
    assert (key.name, key.description) == ("one", "")
    assert audit_targets(team) == []


def test_name_used_in_another_team_is_free(
    other_team: Team, bob: User, charlie: User, issue: Issue
) -> None:
    issue(charlie, "one", team=other_team)
    key, _ = issue(bob, "two")
    assert change_key(key, Changes(name="one"), actor=bob).name == "one"


@pytest.mark.any_database
def test_leaked_key_is_enabled_only_if_the_leak_is_accepted(
    team: Team, bob: User, issue: Issue
) -> None:
    """`key` was read before the report, as when the report arrives in the meantime."""
    key, _ = issue(bob)
    disable(key, actor=bob)
    ApiKey.objects.update(reported_at=timezone.now())
    with pytest.raises(LeakNotAccepted):
        enable(key, actor=bob)
    assert ApiKey.objects.get().disabled_at is not None
    assert audit_targets(team, Action.KEY_ENABLED) == []
    assert enable(key, actor=bob, accept_leak=True).disabled_at is None
    assert enable(key, actor=bob).disabled_at is None  # It is enabled already.


@pytest.mark.any_database
def test_disabling_and_enabling_are_audited_once(team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    since = disable(key, actor=bob, address=ADDRESS).disabled_at
    assert since is not None
    assert disable(key, actor=bob).disabled_at == since
    assert enable(key, actor=bob).disabled_at is None
    assert enable(key, actor=bob).disabled_at is None
    assert audit_targets(team, Action.KEY_DISABLED) == [str(key)]
    assert audit_targets(team, Action.KEY_ENABLED) == [str(key)]


@pytest.mark.any_database
def test_hand_over_is_audited_with_both_owners(
    team: Team, alice: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    assert hand_over(key, alice, actor=bob, address=ADDRESS).owner == alice
    assert hand_over(key, alice, actor=alice).owner == alice
    key.refresh_from_db()
    assert key.owner == alice
    assert audit_targets(team, Action.KEY_HANDED_OVER) == [f"{key}: Owner: bob → alice"]


@pytest.mark.any_database
@pytest.mark.parametrize("who", ["charlie", "vera", "gone", "inactive"])
def test_new_owner_must_be_an_active_member_who_can_own_keys(
    who: str, team: Team, alice: User, bob: User, vera: User, charlie: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    if who == "gone":
        Membership.objects.filter(user=bob).delete()
    if who == "inactive":
        User.objects.filter(pk=bob.pk).update(is_active=False)
    to = {"charlie": charlie, "vera": vera}.get(who, bob)
    with pytest.raises(NotAMember, match=to.username):
        hand_over(key, to, actor=alice)
    key.refresh_from_db()
    assert key.owner == alice
    assert audit_targets(team, Action.KEY_HANDED_OVER) == []


@pytest.mark.any_database
@pytest.mark.parametrize(
    "act",
    [
        lambda key, bob: change_key(key, Changes(name="x"), actor=bob),
        lambda key, bob: disable(key, actor=bob),
        lambda key, bob: enable(key, actor=bob),
        lambda key, bob: hand_over(key, bob, actor=bob),
        lambda key, bob: rotate(key, GracePeriod.HOUR, actor=bob),
        lambda key, bob: revoke_old_secret(key, actor=bob),
        lambda key, bob: key.revoke(actor=bob),
    ],
)
@pytest.mark.parametrize("is_team_gone", [False, True])
def test_changing_a_deleted_key_raises_does_not_exist(
    bob: User,
    team: Team,
    issue: Issue,
    act: Callable[[ApiKey, User], object],
    is_team_gone: bool,
) -> None:
    key, _ = issue(bob)
    ApiKey.objects.get(pk=key.pk).revoke(actor=bob)
    if is_team_gone:
        team.delete()
    before = AuditEvent.objects.count()
    with pytest.raises(ApiKey.DoesNotExist):
        act(key, bob)
    assert AuditEvent.objects.count() == before


@pytest.mark.any_database
def test_history_has_only_events_of_the_key(
    team: Team, alice: User, bob: User, issue: Issue
) -> None:
    """By the public id, which stays; a key of the same name is another one."""
    key, _ = issue(bob, "test")
    issue(bob, f"about {key.public_id}")
    change_key(key, Changes(name="ci"), actor=bob)
    set_key_limits(key, Limits(requests_per_day=5), actor=bob, address=ADDRESS)
    rotate(key, GracePeriod.HOUR, actor=bob)
    revoke_old_secret(key, actor=bob)
    disable(key, actor=bob)
    enable(key, actor=bob)
    hand_over(key, alice, actor=bob)
    key.revoke(actor=alice)
    issue(bob, "test")
    history = AuditEvent.objects.for_team(team).for_key(key.public_id)
    assert [row.action for row in history][::-1] == [
        Action.KEY_CREATED,
        Action.KEY_CHANGED,
        Action.KEY_CHANGED,
        Action.KEY_ROTATED,
        Action.KEY_OLD_SECRET_DELETED,
        Action.KEY_DISABLED,
        Action.KEY_ENABLED,
        Action.KEY_HANDED_OVER,
        Action.KEY_DELETED,
    ]
    assert history[6].target == f"ci ({key.public_id}): Requests per day: none → 5"


@pytest.mark.any_database
def test_history_has_no_events_of_another_team(
    team: Team, other_team: Team, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    assert not AuditEvent.objects.for_team(other_team).for_key(key.public_id).exists()
