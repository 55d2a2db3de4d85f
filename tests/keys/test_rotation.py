"""Rotation: when the old secret ends, and what is stored of it."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.audit.receipts import Receipt
from keyportal.keys import keystring
from keyportal.keys.exceptions import AlreadyRotating, NonceAlreadyUsed
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, live_secrets, revoke_old_secret, rotate
from keyportal.teams.models import Team, User

Issue = Callable[..., tuple[ApiKey, str]]
SPANS = [(GracePeriod.HOUR, 1), (GracePeriod.DAY, 24), (GracePeriod.WEEK, 168)]


def digest(text: str) -> bytes:
    return keystring.digest(text.encode())


def digests(key: ApiKey) -> set[bytes]:
    return {bytes(one.digest) for one in key.secrets.all()}


def live(key: ApiKey) -> list[bytes]:
    return [bytes(one.digest) for one in live_secrets(ApiKey.objects.get(pk=key.pk))]


def use(text: str) -> None:
    """As the gateway's meter notes it."""
    Secret.objects.filter(digest=digest(text)).update(last_used_at=timezone.now())


@pytest.mark.any_database
def test_rotation_without_grace_ends_the_old_secret_and_keeps_the_key(
    team: Team, bob: User, issue: Issue
) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.NOW, actor=bob, address="192.0.2.1")
    assert new.public_id == key.public_id
    assert keystring.is_well_formed(new.text.encode())
    assert new.text != old
    assert live(key) == [digest(new.text)]
    assert digests(key) == {digest(new.text)}
    tombstone = Tombstone.objects.get()
    assert bytes(tombstone.digest) == digest(old)
    assert (tombstone.public_id, tombstone.is_rotated, tombstone.deleted_by_id) == (
        key.public_id,
        True,
        bob.pk,
    )
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_ROTATED)
    assert row.target == f"{key}: the old secret still works: not at all: it stops working now"
    assert (row.actor, row.address) == ("bob", "192.0.2.1")


@pytest.mark.any_database
@pytest.mark.parametrize(("grace", "hours"), SPANS)
def test_old_secret_works_during_the_grace_period(
    bob: User, issue: Issue, grace: GracePeriod, hours: int
) -> None:
    key, old = issue(bob)
    before = timezone.now() - timedelta(milliseconds=1)  # SQLite's clock has no more digits.
    new = rotate(key, grace, actor=bob)
    assert live(key) == [digest(new.text), digest(old)]
    ending = Secret.objects.get(digest=digest(old)).expires_at
    assert ending is not None
    assert before <= ending - timedelta(hours=hours) <= timezone.now()
    assert Secret.objects.get(digest=digest(new.text)).expires_at is None
    an_hour_ago = timezone.now() - timedelta(hours=1)
    Secret.objects.filter(digest=digest(old)).update(expires_at=an_hour_ago)
    assert live(key) == [digest(new.text)]


@pytest.mark.any_database
def test_old_secret_works_until_the_new_one_is_used(bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    use(old)
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob)
    use(old)
    assert live(key) == [digest(new.text), digest(old)]
    use(new.text)
    assert live(key) == [digest(new.text)]


@pytest.mark.any_database
@pytest.mark.parametrize("first", [GracePeriod.HOUR, GracePeriod.FIRST_USE])
@pytest.mark.parametrize("second", [GracePeriod.WEEK, GracePeriod.FIRST_USE])
def test_key_has_at_most_two_live_secrets(
    bob: User, issue: Issue, first: GracePeriod, second: GracePeriod
) -> None:
    key, old = issue(bob)
    new = rotate(key, first, actor=bob)
    with pytest.raises(AlreadyRotating):
        rotate(key, second, actor=bob)
    assert live(key) == [digest(new.text), digest(old)]
    assert AuditEvent.objects.filter(action=Action.KEY_ROTATED).count() == 1


@pytest.mark.any_database
@pytest.mark.parametrize("first", [GracePeriod.HOUR, GracePeriod.FIRST_USE])
def test_rotation_without_grace_ends_both_secrets(
    bob: User, issue: Issue, first: GracePeriod
) -> None:
    key, old = issue(bob)
    newer = rotate(key, first, actor=bob)
    newest = rotate(key, GracePeriod.NOW, actor=bob)
    assert digests(key) == {digest(newest.text)}
    deleted_digests = {bytes(tombstone.digest) for tombstone in Tombstone.objects.all()}
    assert deleted_digests == {digest(old), digest(newer.text)}


@pytest.mark.any_database
@pytest.mark.parametrize("second", [GracePeriod.HOUR, GracePeriod.FIRST_USE])
def test_grace_period_is_possible_again_after_the_old_secret_ended(
    bob: User, issue: Issue, second: GracePeriod
) -> None:
    """And what has ended by itself goes, with a tombstone."""
    key, old = issue(bob)
    newer = rotate(key, GracePeriod.FIRST_USE, actor=bob)
    use(newer.text)
    newest = rotate(key, second, actor=bob)
    assert live(key) == [digest(newest.text), digest(newer.text)]
    assert [bytes(tombstone.digest) for tombstone in Tombstone.objects.all()] == [digest(old)]


@pytest.mark.any_database
def test_old_secret_can_be_revoked(team: Team, bob: User, issue: Issue) -> None:
    key, old = issue(bob)
    new = rotate(key, GracePeriod.WEEK, actor=bob)
    for _ in range(2):
        revoke_old_secret(key, actor=bob, address="192.0.2.1")
    assert digests(key) == {digest(new.text)}
    assert bytes(Tombstone.objects.get().digest) == digest(old)
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_OLD_SECRET_DELETED)
    assert (row.target, row.actor, row.address) == (str(key), "bob", "192.0.2.1")


def test_nonce_rotates_once(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    rotate(key, GracePeriod.NOW, actor=bob, nonce="one form")
    before = digests(key)
    with pytest.raises(NonceAlreadyUsed):
        rotate(key, GracePeriod.NOW, actor=bob, nonce="one form")
    assert digests(key) == before


def test_refused_rotation_does_not_spend_the_nonce(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    rotate(key, GracePeriod.HOUR, actor=bob)
    with pytest.raises(AlreadyRotating):
        rotate(key, GracePeriod.HOUR, actor=bob, nonce="one form")
    rotate(key, GracePeriod.NOW, actor=bob, nonce="one form")


def test_newest_secret_is_found_by_id_not_by_clock(bob: User, issue: Issue) -> None:
    """A host whose clock is ahead has made the first one: it is the older one all the same."""
    key, old = issue(bob)
    Secret.objects.update(created_at=timezone.now() + timedelta(minutes=5))
    new = rotate(key, GracePeriod.FIRST_USE, actor=bob)
    found = ApiKey.objects.for_display().get(pk=key.pk)
    assert found.masked.endswith(new.last4)
    assert found.secrets.all()[0].last4 == new.last4
    use(new.text)
    assert live(key) == [digest(new.text)]
    revoke_old_secret(key, actor=bob)
    assert digests(key) == {digest(new.text)}
    assert bytes(Tombstone.objects.get().digest) == digest(old)


@pytest.mark.any_database
def test_rotated_key_has_a_receipt_only_after_its_deletion(
    team: Team, bob: User, issue: Issue
) -> None:
    """Then its receipt tells of all its secrets."""
    key, old = issue(bob)
    use(old)
    rotate(key, GracePeriod.NOW, actor=bob)
    rotate(key, GracePeriod.HOUR, actor=bob)
    assert Receipt.for_key(team, key.public_id) is None
    key.revoke(actor=bob)
    receipt = Receipt.for_key(team, key.public_id)
    assert receipt is not None
    assert receipt.last is not None
    assert bytes(receipt.last.digest) == digest(old)
    assert Tombstone.objects.filter(is_rotated=False).count() == 2
    assert Tombstone.objects.count() == 3


def test_key_string_is_stored_nowhere(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    new = rotate(key, GracePeriod.HOUR, actor=bob)
    assert new.text not in repr(new)
    for row in AuditEvent.objects.all():
        assert keystring.redact(row.target) == row.target
