"""Issuing a key: the limit, the name, the nonce, and where the key string is not stored."""

from collections.abc import Callable

import pytest
from django.apps import apps
from django.db import IntegrityError, connection, transaction

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.exceptions import KeyLimitReached, NameTaken, NonceAlreadyUsed
from keyportal.keys.models import ApiKey, Secret, SpentNonce
from keyportal.teams.models import Team, User

Issue = Callable[..., tuple[ApiKey, str]]


def every_value() -> list[str]:
    """All values of all columns of all tables, as text; bytes in hexadecimal and as characters."""
    found = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f"SELECT * FROM {connection.ops.quote_name(table)}")
            for row in cursor.fetchall():
                for value in row:
                    blob = bytes(value) if isinstance(value, bytes | memoryview) else b""
                    found.append(blob.hex() + blob.decode("latin-1") if blob else str(value))
    return found


def test_issue_stores_the_digest_and_returns_the_key_string(bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob)
    stored = Secret.objects.get(key=key)
    assert bytes(stored.digest) == keystring.digest(plaintext.encode())
    assert (stored.prefix, stored.last4) == ("sk-kp-", plaintext[-4:])
    assert key.masked == f"sk-kp-{key.public_id}…{plaintext[-4:]}"


def test_key_string_is_in_no_column_of_any_table(bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob, actor=bob, nonce="n1", address="192.0.2.1")
    values = every_value()
    # The walk sees what is there: the name, the mark, the audit row and the digest.
    assert {key.name, "n1", str(key)} <= set(values)
    assert any(keystring.digest(plaintext.encode()).hex() in value for value in values)
    for part in (plaintext, plaintext[14:-4], plaintext[14:46]):
        assert not any(part in value for value in values)


def test_every_table_is_searched(db: None) -> None:
    tables = {model._meta.db_table for model in apps.get_models()}
    assert tables <= set(connection.introspection.table_names())


def test_creation_is_audited(team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "ci", actor=bob, address="192.0.2.1")
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_CREATED)
    assert (row.actor, row.target, row.address) == ("bob", f"ci ({key.public_id})", "192.0.2.1")


def test_key_above_the_limit_is_refused_and_audited(team: Team, bob: User, issue: Issue) -> None:
    Team.objects.filter(pk=team.pk).update(max_keys=2)
    issue(bob, "one")
    issue(bob, "two")
    with pytest.raises(KeyLimitReached, match="2 of 2 API keys"):
        issue(bob, "three", actor=bob, nonce="n1", address="192.0.2.1")
    assert ApiKey.objects.for_team(team).count() == Secret.objects.count() == 2
    # The mark is not spent: once there is room, the same form may be sent again.
    assert not SpentNonce.objects.exists()
    row = AuditEvent.objects.for_team(team).get(action=Action.KEY_REFUSED_BY_LIMIT)
    assert (row.actor, row.target, row.address) == ("bob", "three", "192.0.2.1")


def test_limit_of_zero_refuses_the_first_key(team: Team, bob: User, issue: Issue) -> None:
    Team.objects.filter(pk=team.pk).update(max_keys=0)
    with pytest.raises(KeyLimitReached):
        issue(bob)
    assert not ApiKey.objects.exists()


def test_key_limit_counts_only_keys_of_the_team(
    team: Team, other_team: Team, bob: User, charlie: User, issue: Issue
) -> None:
    Team.objects.update(max_keys=1)
    issue(bob)
    issue(charlie, team=other_team)
    assert ApiKey.objects.count() == 2


def test_deleted_key_does_not_count(team: Team, bob: User, issue: Issue) -> None:
    Team.objects.filter(pk=team.pk).update(max_keys=1)
    key, _ = issue(bob, "one")
    key.revoke(actor=bob)
    issue(bob, "one")
    assert ApiKey.objects.get().name == "one"


def test_key_name_is_unique_in_a_team(
    team: Team, other_team: Team, bob: User, charlie: User, issue: Issue
) -> None:
    issue(bob, "ci")
    with pytest.raises(NameTaken):
        issue(bob, "ci", nonce="n1")
    assert not SpentNonce.objects.exists()
    issue(charlie, "ci", team=other_team)
    assert ApiKey.objects.filter(name="ci").count() == 2


def test_nonce_can_be_used_once(team: Team, bob: User, issue: Issue) -> None:
    issue(bob, "one", nonce="n1")
    with pytest.raises(NonceAlreadyUsed):
        issue(bob, "two", nonce="n1")
    assert ApiKey.objects.for_team(team).count() == 1
    assert AuditEvent.objects.filter(action=Action.KEY_CREATED).count() == 1


def test_without_a_form_no_nonce_is_stored(bob: User, issue: Issue) -> None:
    issue(bob, "one")
    issue(bob, "two")
    assert ApiKey.objects.count() == 2
    assert not SpentNonce.objects.exists()


@pytest.mark.parametrize(
    "change",
    [{"name": ""}, {"name": "taken"}],
    ids=["an empty name", "another's name"],
)
def test_database_constraints_refuse_invalid_rows(
    bob: User, issue: Issue, change: dict[str, str]
) -> None:
    issue(bob, "taken")
    key, _ = issue(bob, "free")
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(**change)


def test_search_treats_wildcards_as_literals(bob: User, issue: Issue) -> None:
    key, _ = issue(bob, "100% sure")
    issue(bob, "snake_case")
    assert [found.name for found in ApiKey.objects.matching("%")] == ["100% sure"]
    assert [found.name for found in ApiKey.objects.matching("E_C")] == ["snake_case"]
    assert [found.name for found in ApiKey.objects.matching(key.public_id)] == ["100% sure"]
    assert ApiKey.objects.matching("").count() == 2
