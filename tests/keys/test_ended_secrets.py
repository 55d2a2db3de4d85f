"""The clean-up of expired secrets: each leaves a tombstone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

from django.db import connection
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, delete_expired_secrets, rotate
from keyportal.teams.models import Team, User

Issue = Callable[..., tuple[ApiKey, str]]


def digest(text: str) -> bytes:
    return keystring.digest(text.encode())


def end_by_clock(old: str) -> None:
    now = timezone.now()
    Secret.objects.filter(digest=digest(old)).update(expires_at=now - timedelta(seconds=1))


def test_expired_secret_is_deleted_with_a_tombstone(team: Team, bob: User, issue: Issue) -> None:
    key, old = issue(bob, "ci")
    new = rotate(key, GracePeriod.HOUR, actor=bob)
    assert delete_expired_secrets() == 0
    end_by_clock(old)
    assert delete_expired_secrets() == 1
    assert bytes(Secret.objects.get().digest) == digest(new.text)
    tombstone = Tombstone.objects.get()
    assert (bytes(tombstone.digest), tombstone.is_rotated, tombstone.deleted_by_id) == (
        digest(old),
        True,
        None,
    )
    row = (
        AuditEvent.objects.for_team(team)
        .for_key(key.public_id)
        .get(action=Action.KEY_OLD_SECRET_DELETED)
    )
    assert (row.target, row.actor) == (f"ci ({key.public_id}): its grace period was over", "")
    assert delete_expired_secrets() == 0


def test_first_use_of_the_new_secret_deletes_the_old_one(bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob)
    # That the old one is used is no reason.
    Secret.objects.filter(digest=digest(old)).update(last_used_at=timezone.now())
    assert delete_expired_secrets() == 0
    Secret.objects.filter(digest=digest(new.text)).update(last_used_at=timezone.now())
    assert delete_expired_secrets() == 1
    assert bytes(Tombstone.objects.get().digest) == digest(old)


def test_clean_up_keeps_the_newest_secret(bob: User, issue: Issue) -> None:
    """Its only secret, or its newest, even where that has ended: a key always has one."""
    key, only = issue(bob)
    end_by_clock(only)
    assert delete_expired_secrets() == 0
    assert ApiKey.objects.get().masked == key.masked


def test_only_expired_secrets_are_deleted(bob: User, issue: Issue) -> None:
    for name in ("one", "two", "three"):
        key, old = issue(bob, name)
        rotate(key, GracePeriod.WEEK, actor=bob)
        if name != "two":
            end_by_clock(old)
    assert delete_expired_secrets() == 2
    assert Secret.objects.filter(key__name="two").count() == 2


def test_clean_up_stops_when_told_to(bob: User, issue: Issue) -> None:
    for name in ("one", "two"):
        key, old = issue(bob, name)
        rotate(key, GracePeriod.WEEK, actor=bob)
        end_by_clock(old)
    responses = iter([True, False])
    assert delete_expired_secrets(should_continue=lambda: next(responses)) == 1
    assert Tombstone.objects.count() == 1


def test_concurrent_clean_ups_delete_each_secret_once(
    transactional_db: None, bob: User, issue: Issue
) -> None:
    keys = []
    for number in range(4):
        key, old = issue(bob, f"key {number}")
        rotate(key, GracePeriod.WEEK, actor=bob)
        end_by_clock(old)
        keys.append(key)
    acts = [
        delete_expired_secrets,
        delete_expired_secrets,
        lambda: keys[0].revoke(actor=bob),
        delete_expired_secrets,
    ]
    acts.append(lambda: rotate(keys[1], GracePeriod.NOW, actor=bob))
    gate = Barrier(len(acts))

    def run(act: Callable[[], object]) -> None:
        gate.wait(timeout=120)
        try:
            act()
        finally:
            connection.close()

    with ThreadPoolExecutor(len(acts)) as crowd:
        list(crowd.map(run, acts))
    # Two of the deleted key, two of the one that was rotated, and one of each other.
    assert Tombstone.objects.count() == 6
    assert Secret.objects.count() == 3
    ended = AuditEvent.objects.filter(action=Action.KEY_OLD_SECRET_DELETED)
    assert ended.count() == len({row.public_id for row in ended})
