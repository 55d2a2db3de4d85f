"""Two concurrent changes of one key leave a consistent key."""

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from io import StringIO
from typing import cast

import pytest
from django.core.management import call_command
from django.db import connection, transaction
from django.forms import model_to_dict
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import keystring
from keyportal.keys.changes import Changes, change_key, disable, enable, hand_over
from keyportal.keys.exceptions import (
    AlreadyRotating,
    ManagedByAdmin,
    NameTaken,
    NotAMember,
    PolicyViolation,
)
from keyportal.keys.keystring import KeyString
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, live_secrets, revoke_old_secret, rotate
from keyportal.keys.rules.permissions import Permissions
from keyportal.keys.status import State, state_of
from keyportal.leaks import handling
from keyportal.leaks.reports import OPERATOR, ReportContents, ReportedKey
from keyportal.teams.access import Outsider
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import Policy
from tests.support.concurrency import run_concurrently
from tests.support.forms import form_data

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.long]
Issue = Callable[..., tuple[ApiKey, str]]
ROUNDS = 3
CROWD = 6
SECRETS_FORM = {"secrets-TOTAL_FORMS": 0, "secrets-INITIAL_FORMS": 0}


def digest(text: str) -> bytes:
    return keystring.digest(text.encode())


def require_all_accounted_for(public_id: str, old: str, outcomes: Iterable[object]) -> set[bytes]:
    """Each secret that was ever shown is kept, or buried, and never both. Returns the kept."""
    shown = {digest(old), *(digest(one.text) for one in outcomes if isinstance(one, KeyString))}
    kept = {bytes(one.digest) for one in Secret.objects.filter(key__public_id=public_id)}
    tombstones = Tombstone.objects.filter(public_id=public_id)
    buried = {bytes(tombstone.digest) for tombstone in tombstones}
    assert kept | buried == shown
    assert not kept & buried
    assert len(kept) <= 2
    return kept


def rotations(key: ApiKey, bob: User, *graces: GracePeriod) -> list[Callable[[], object]]:
    return [partial(rotate, key, grace, actor=bob) for grace in graces]


def test_concurrent_rotations_without_grace_leave_one_secret(bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    outcomes = run_concurrently(*rotations(key, bob, *[GracePeriod.NOW] * CROWD))
    assert all(isinstance(one, KeyString) for one in outcomes)
    assert len(require_all_accounted_for(key.public_id, old, outcomes)) == 1
    assert AuditEvent.objects.filter(action=Action.KEY_ROTATED).count() == CROWD


@pytest.mark.parametrize("grace", [GracePeriod.HOUR, GracePeriod.FIRST_USE])
def test_one_of_concurrent_rotations_with_grace_succeeds(
    bob: User, issue: Issue, grace: GracePeriod
) -> None:
    key, old = issue(bob)
    outcomes = run_concurrently(*rotations(key, bob, *[grace] * CROWD))
    assert sum(isinstance(one, AlreadyRotating) for one in outcomes) == CROWD - 1
    assert len(require_all_accounted_for(key.public_id, old, outcomes)) == 2
    assert AuditEvent.objects.filter(action=Action.KEY_ROTATED).count() == 1


def test_concurrent_rotations_and_revocation_leave_a_valid_state(bob: User, issue: Issue) -> None:
    for number in range(ROUNDS):
        key, old = issue(bob, f"key {number}")
        outcomes = run_concurrently(
            *rotations(
                key, bob, GracePeriod.NOW, GracePeriod.HOUR, GracePeriod.FIRST_USE, GracePeriod.NOW
            ),
            partial(revoke_old_secret, key, actor=bob),
        )
        assert require_all_accounted_for(key.public_id, old, outcomes)
        assert 1 <= len(live_secrets(key)) <= 2


@pytest.mark.parametrize("grace", [GracePeriod.NOW, GracePeriod.HOUR])
def test_deletion_during_a_rotation_ends_every_secret(
    bob: User, issue: Issue, grace: GracePeriod
) -> None:
    """The one that was made a moment before too, or the deletion would have left a way in."""
    for number in range(ROUNDS):
        key, old = issue(bob, f"key {number}")
        *rotated, deleted = run_concurrently(
            *rotations(key, bob, grace, grace), partial(key.revoke, actor=bob)
        )
        assert deleted is None
        assert not ApiKey.objects.filter(pk=key.pk).exists()
        assert require_all_accounted_for(key.public_id, old, rotated) == set()


def test_disabling_during_a_rotation_is_kept(bob: User, issue: Issue) -> None:
    for number in range(ROUNDS):
        key, old = issue(bob, f"key {number}")
        outcomes = run_concurrently(
            partial(disable, key, actor=bob),
            *rotations(key, bob, GracePeriod.HOUR, GracePeriod.NOW),
        )
        assert require_all_accounted_for(key.public_id, old, outcomes)
        assert ApiKey.objects.get(pk=key.pk).disabled_at is not None
        history = AuditEvent.objects.for_key(key.public_id)
        assert history.filter(action=Action.KEY_DISABLED).count() == 1


def test_owner_cannot_enable_a_key_that_an_admin_disables_concurrently(
    ada: User, bob: User, issue: Issue
) -> None:
    """Whoever of the two comes first: it had been enabled before, or is no longer."""
    for number in range(ROUNDS):
        key, _ = issue(bob, f"key {number}")
        disable(key, actor=bob)
        _, enabled = run_concurrently(
            partial(disable, key, actor=ada), partial(enable, key, actor=bob)
        )
        assert isinstance(enabled, ApiKey | ManagedByAdmin)
        key.refresh_from_db()
        assert key.disabled_at is not None
        assert key.is_managed
        rows = AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_ENABLED)
        assert rows.count() == isinstance(enabled, ApiKey)


def test_owner_cannot_widen_a_key_that_an_admin_narrows_concurrently(
    ada: User, bob: User, issue: Issue
) -> None:
    end = timezone.now() + timedelta(days=9)
    less = Changes(permissions=Permissions(("public/*",)), expires_at=end)
    for number in range(ROUNDS):
        key, _ = issue(bob, f"key {number}", actor=bob, expires_at=end)
        more = Changes(permissions=Permissions(), expires_at=end + timedelta(days=1))
        _, widened = run_concurrently(
            partial(change_key, key, less, actor=ada), partial(change_key, key, more, actor=bob)
        )
        assert isinstance(widened, ApiKey | ManagedByAdmin)
        key.refresh_from_db()
        assert (key.permissions, key.expires_at) == (less["permissions"], end)


def test_report_and_rotation_do_not_enable_a_key_that_an_admin_disables_concurrently(
    ada: User, bob: User, issue: Issue
) -> None:
    for number in range(ROUNDS):
        key, plaintext = issue(bob, f"key {number}")
        report = ReportContents([ReportedKey(plaintext)], OPERATOR)
        run_concurrently(
            partial(handling.handle_report, report),
            partial(disable, key, actor=ada),
            *rotations(key, bob, GracePeriod.NOW),
        )
        rotate(key, GracePeriod.NOW, actor=bob)
        key.refresh_from_db()
        assert (key.is_managed, key.reported_at) == (True, None)
        assert key.disabled_at is not None


def test_concurrent_changes_of_different_fields_are_all_kept(bob: User, issue: Issue) -> None:
    """No act writes back what it has read before another one."""
    key, _ = issue(bob)
    run_concurrently(
        partial(change_key, key, Changes(name="ci"), actor=bob),
        partial(change_key, key, Changes(description="Nightly."), actor=bob),
        partial(change_key, key, Changes(tags=["ci"]), actor=bob),
        partial(disable, key, actor=bob),
    )
    key.refresh_from_db()
    assert (key.name, key.description, key.tags) == ("ci", "Nightly.", ["ci"])
    assert key.disabled_at is not None


def test_hand_over_to_a_member_who_leaves_concurrently_is_consistent(
    alice: User, bob: User, team: Team, issue: Issue
) -> None:
    """Who leaves before it is no owner; who leaves after it takes the key's working along."""
    for number in range(ROUNDS):
        key, _ = issue(alice, f"key {number}")
        membership, _ = Membership.objects.get_or_create(user=bob, team=team)
        handed, _ = run_concurrently(partial(hand_over, key, bob, actor=alice), membership.delete)
        key.refresh_from_db()
        assert (key.owner == bob) is isinstance(handed, ApiKey)
        assert isinstance(handed, ApiKey | NotAMember)
        rows = AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_HANDED_OVER)
        assert rows.count() == (key.owner == bob)


@pytest.mark.parametrize("giver", ["alice", "ada"])
def test_key_handed_over_while_its_owner_leaves_works_if_it_was_in_time(
    alice: User, ada: User, bob: User, team: Team, issue: Issue, giver: str
) -> None:
    """Unless they gave it away themselves, and left before that."""
    actor = {"alice": alice, "ada": ada}[giver]
    for number in range(ROUNDS):
        membership, _ = Membership.objects.update_or_create(
            user=alice, team=team, defaults={"role": Role.OWNER}
        )
        key, _ = issue(alice, f"key {number}", actor=alice)
        handed, _ = run_concurrently(partial(hand_over, key, bob, actor=actor), membership.delete)
        assert not Membership.objects.filter(user=alice).exists()
        if giver == "alice" and isinstance(handed, Outsider):
            assert ApiKey.objects.get(pk=key.pk).owner == alice
            continue
        assert isinstance(handed, ApiKey)
        found = ApiKey.objects.for_display().select_related("team").get(pk=key.pk)
        assert found.owner == bob
        actions = AuditEvent.objects.for_key(key.public_id).order_by("pk")
        left_before = Action.KEY_DISABLED in actions.values_list("action", flat=True)
        assert state_of(found) == (State.DISABLED if left_before else State.ACTIVE)
        (row,) = AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_HANDED_OVER)
        assert (row.actor, row.target) == (giver, f"{key}: Owner: alice → bob")


def test_concurrent_hand_overs_do_not_exceed_the_keys_of_a_member(
    alice: User, bob: User, team: Team, issue: Issue
) -> None:
    keys = [issue(alice, f"key {number}")[0] for number in range(CROWD)]
    team.policy = Policy(max_keys_per_member=2)
    team.save(update_fields=["policy"])
    outcomes = run_concurrently(*(partial(hand_over, key, bob, actor=alice) for key in keys))
    assert sum(isinstance(one, PolicyViolation) for one in outcomes) == CROWD - 2
    assert ApiKey.objects.filter(owner=bob).count() == 2


def form_sender(client: Client, path: str, **fields: str) -> Callable[[], HttpResponse]:
    """A form that is open by now, to be sent with this typed in it."""
    form = form_data(client.get(path), **fields)
    return lambda: cast("HttpResponse", client.post(path, form))


def signed_in_client(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def test_concurrent_policy_changes_by_pages_and_commands_are_all_kept(
    ada: User, team: Team
) -> None:
    rules = ("--max-lifetime-days=90", "--must-expire=yes", "--name-pattern=ci-*")
    team_limits = [f"--{name.replace('_', '-')}=9" for name in Limits._fields]
    # Of a page that is out of date by then, nothing is saved.
    page = form_sender(
        signed_in_client(ada), f"/teams/{team.slug}/policy/", max_keys_per_member="3"
    )
    commands = [
        partial(call_command, name, team.slug, given, stdout=StringIO())
        for name, options in (("setpolicy", rules), ("setteam", team_limits))
        for given in options
    ]
    saved, *_ = run_concurrently(page, *commands)
    team.refresh_from_db()
    most = 3 if cast("HttpResponse", saved).status_code == 302 else None
    assert team.policy == Policy(90, True, (), (), most, "ci-*")
    assert team.limits == Limits(*[9] * len(Limits._fields))


def test_one_of_many_concurrent_renames_to_a_name_succeeds(
    bob: User, team: Team, issue: Issue
) -> None:
    keys = [issue(bob, f"key {number}")[0] for number in range(CROWD)]
    outcomes = run_concurrently(
        *(partial(change_key, key, Changes(name="ci"), actor=bob) for key in keys),
        partial(ApiKey.objects.issue, team=team, owner=bob, actor=bob, name="ci"),
    )
    assert sum(isinstance(one, NameTaken) for one in outcomes) == CROWD
    assert ApiKey.objects.filter(name="ci").count() == 1


def test_concurrent_renames_in_the_admin_show_that_the_name_is_taken(
    bob: User, issue: Issue
) -> None:
    keys = [issue(bob, f"key {number}")[0] for number in range(3)]

    def rename(key: ApiKey, client: Client) -> HttpResponse:
        form = model_to_dict(key, ["owner"]) | {"name": "ci", **SECRETS_FORM}
        return cast("HttpResponse", client.post(f"/admin/keys/apikey/{key.pk}/change/", form))

    clients = [Client() for _ in keys]
    # One for each, because the forms of one person wait for each other.
    for number, client in enumerate(clients):
        client.force_login(User.objects.create_superuser(f"root-{number}"))
    responses = run_concurrently(*map(partial, [rename] * 3, keys, clients))
    refused = [one for one in responses if isinstance(one, HttpResponse) and one.status_code == 200]
    assert len(refused) == 2
    assert all("already exists" in one.content.decode() for one in refused)
    assert ApiKey.objects.filter(name="ci").count() == 1


@pytest.mark.parametrize(
    "act",
    [
        lambda key, bob: key.revoke(actor=bob),
        lambda key, bob: rotate(key, GracePeriod.NOW, actor=bob),
    ],
)
def test_revoking_both_secrets_does_not_deadlock_with_the_meter(
    bob: User, issue: Issue, act: Callable[[ApiKey, User], object]
) -> None:
    """The gateway notes last uses by the id; the rows' order on disk is any, as here."""
    key, _ = issue(bob)
    rotate(key, GracePeriod.HOUR, actor=bob)
    older, newer = Secret.objects.order_by("pk")
    for value in (b"moved", older.digest):
        Secret.objects.filter(pk=older.pk).update(digest=value)
    with ThreadPoolExecutor(1) as thread, transaction.atomic():
        note_use(older)
        ended = thread.submit(close_connection_after, partial(act, key, bob))
        time.sleep(0.3)  # By now it waits for one of the two.
        note_use(newer)
    ended.result(timeout=120)


def note_use(one: Secret) -> None:
    Secret.objects.filter(pk=one.pk).update(last_used_user_agent="noted")


def close_connection_after(act: Callable[[], object]) -> object:
    try:
        return act()
    finally:
        connection.close()
