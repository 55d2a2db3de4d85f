"""Deleting a key: its rows are gone; tombstones and an audit row remain."""

from collections.abc import Callable

import pytest
from django.db.models import ProtectedError
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import Team, User

Issue = Callable[..., tuple[ApiKey, str]]


def test_revoking_deletes_key_and_secrets(bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "one")
    kept, _ = issue(bob, "two")
    key.revoke(actor=bob)
    assert ApiKey.objects.get() == kept
    assert Secret.objects.get().key == kept


def test_revoking_leaves_a_tombstone_for_each_secret(team: Team, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob, "ci")
    Secret.objects.create(key=key, digest=b"2" * 32, prefix="sk-kp-", last4="abcd")
    public_id = key.public_id
    key.revoke(actor=bob)
    digests = {bytes(tombstone.digest) for tombstone in Tombstone.objects.all()}
    assert digests == {keystring.digest(plaintext.encode()), b"2" * 32}
    for tombstone in Tombstone.objects.all():
        assert (tombstone.public_id, tombstone.name) == (public_id, "ci")
        assert (tombstone.team_slug, tombstone.owner_id, tombstone.deleted_by_id) == (
            team.slug,
            bob.pk,
            bob.pk,
        )
        assert (timezone.now() - tombstone.deleted_at).total_seconds() < 60


def test_revoking_is_audited(team: Team, ada: User, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "ci")
    shown = str(key)
    key.revoke(actor=ada, address="192.0.2.1")
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_DELETED)
    assert (row.actor, row.target, row.address) == ("ada", shown, "192.0.2.1")


def test_a_command_revokes_without_an_actor(team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    key.revoke(actor=None)
    assert AuditEvent.objects.for_team(team).get(action=Action.KEY_DELETED).actor == ""
    assert Tombstone.objects.get().deleted_by_id is None


def test_second_revoke_raises_and_writes_nothing(bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    again = ApiKey.objects.get(pk=key.pk)
    key.revoke(actor=bob)
    with pytest.raises(ApiKey.DoesNotExist):
        again.revoke(actor=bob)
    assert Tombstone.objects.count() == 1
    assert AuditEvent.objects.filter(action=Action.KEY_DELETED).count() == 1


def test_user_or_team_with_keys_cannot_be_deleted(team: Team, bob: User, issue: Issue) -> None:
    issue(bob)
    for keeper in (bob, team):
        with pytest.raises(ProtectedError):
            keeper.delete()
    assert ApiKey.objects.count() == 1
