"""The verdict's query uses indexes, so its cost does not grow with the number of keys."""

from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from keyportal.gateway.admission.database import Database, Row
from keyportal.gateway.admission.verdict import _query_postgresql, _query_sqlite
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import Membership, Team, User

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "admission"])
MANY = {"sqlite": 300, "postgresql": 3000}  # PostgreSQL reads a small table as a whole.


@pytest.fixture
def digests(team: Team, bob: User) -> list[bytes]:
    """The digests of eight of many keys. The old secrets are valid until the new ones are used."""
    users = User.objects.bulk_create(User(username=f"user{n}") for n in range(300))
    Membership.objects.bulk_create(Membership(team=team, user=user) for user in users)
    keys = ApiKey.objects.bulk_create(
        ApiKey(team=team, owner=users[n % 300], name=f"key {n}", public_id=f"{n:08}")
        for n in range(MANY[connection.vendor])
    )
    for generation in (b"old", b"new"):
        Secret.objects.bulk_create(
            Secret(
                key=key,
                digest=keystring.digest(generation + key.public_id.encode()),
                prefix="sk-kp-",
                last4="abcd",
                expires_when_new_used=generation == b"old",
                last_used_at=timezone.now(),
            )
            for key in keys
        )
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return [keystring.digest(b"old" + key.public_id.encode()) for key in keys[:8]]


class Recorder(Database):
    """Records a query instead of executing it."""

    query: tuple[str, tuple[Any, ...]]

    def rows(self, sql: str, *parameters: object) -> list[Row]:
        self.query = sql, parameters
        return []


def explain(prefix: str, digests: list[bytes]) -> list[str]:
    db = Recorder()
    query = _query_postgresql if connection.vendor == "postgresql" else _query_sqlite
    query(db, digests)
    sql, parameters = db.query
    with connection.cursor() as cursor:
        cursor.execute(f"{prefix} {sql}", parameters)
        return [str(row[-1]) for row in cursor.fetchall()]


@pytest.mark.postgresql
def test_postgresql_scans_no_table_of_keys(digests: list[bytes]) -> None:
    plan = explain("EXPLAIN", digests)
    assert any("Index Cond: (digest" in line for line in plan), plan
    # The newer secret is read by its key, without a hash of the whole table.
    assert any("Index Cond: (key_id" in line for line in plan), plan
    assert not [line for line in plan if "Seq Scan on keys_" in line], plan


@pytest.mark.sqlite
def test_sqlite_scans_no_table(digests: list[bytes]) -> None:
    plan = explain("EXPLAIN QUERY PLAN", digests)
    assert any(line.startswith("SEARCH secret USING INDEX") for line in plan), plan
    assert any(line.startswith("SEARCH newer USING INDEX") for line in plan), plan
    assert not [line for line in plan if line.startswith("SCAN")], plan
