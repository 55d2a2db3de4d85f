"""The verdict on a key: the only query that decides which keys are valid.

It runs in the admission thread, with fixed SQL and tuples, without the ORM.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from keyportal.catalog.models import CatalogVersion
from keyportal.catalog.snapshot import Snapshot
from keyportal.gateway.admission.database import (
    ALIAS,
    Database,
    Row,
    close,
    database,
    is_open,
    is_usable,
)
from keyportal.gateway.admission.limits import Buckets, buckets_for
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rules.permissions import (
    Endpoints,
    NamePatterns,
    Network,
    parse_models,
    parse_networks,
)
from keyportal.teams.limits import parse
from keyportal.teams.models import Membership, Team, User


class Verdict(NamedTuple):
    """The key is valid: its team and owner, and what it may call."""

    secret_id: int
    public_id: str
    team_id: int
    models: NamePatterns | None = None
    """Names and patterns; None: all models that the team may call."""
    team_slug: str = ""
    """`Team.history_slug`, by which usage and counters know the team."""
    owner_id: int = 0
    buckets: Buckets = ()
    """Where its requests are counted; empty if neither the key nor its team has a limit."""
    endpoints: str = Endpoints.ALL.value
    networks: tuple[Network, ...] = ()
    """The allowed networks; empty: all."""
    current_slug: str = ""
    """By which people and programs know the team."""

    def may_call(self, name: str) -> bool:
        """Whether the key may call this model, if its team may."""
        return self.models is None or name in self.models

    def without_parallel_limits(self) -> "Verdict":
        """Return this verdict without the limits of parallel requests."""
        buckets = _without_parallel_limits(self.buckets)
        return self if buckets == self.buckets else self._replace(buckets=buckets)


@lru_cache(8192)
def _without_parallel_limits(buckets: Buckets) -> Buckets:
    return tuple(bucket for bucket in buckets if bucket.parallel is None)


class VerdictResult(NamedTuple):
    """The verdicts of one batch by digest, the current catalog, and the time."""

    verdicts: dict[bytes, Verdict]
    catalog: Snapshot
    now: float = 0.0
    """Seconds since 1970, on the database's clock."""


def read_verdicts(digests: Sequence[bytes], catalog: Snapshot) -> VerdictResult:
    """Judge these digests with one SELECT, and read the catalog again if it has changed.

    After a failure the connection is closed, because a broken one would fail for ever. If it broke
    while it was idle, the query is repeated once on a new connection.
    """
    was_open = is_open()
    try:
        return _read(digests, catalog)
    except Exception:
        broke_while_idle = was_open and not is_usable()
        close()
        if not broke_while_idle:
            raise
    return read_verdicts(digests, catalog)


def _read(digests: Sequence[bytes], catalog: Snapshot) -> VerdictResult:
    db = database()
    query = _query_postgresql if db.is_postgresql else _query_sqlite
    rows = query(db, digests)
    if not rows:
        return VerdictResult({}, catalog)
    *_, now, version = rows[0]
    if version != catalog.version:
        catalog = Snapshot.read(ALIAS)
    return VerdictResult({bytes(row[0]): _verdict(row) for row in rows}, catalog, now)


def _verdict(row: tuple[Any, ...]) -> Verdict:
    _, secret_id, public_id, team_id, models, endpoints, networks, slug, owner_id, *rest = row
    limits, team_limits, current_slug, *_ = rest
    buckets: Buckets = ()
    if limits != "{}" or team_limits != "{}":
        buckets = buckets_for(public_id, parse(limits), slug, parse(team_limits))
    return Verdict(
        secret_id,
        public_id,
        team_id,
        parse_models(models),
        slug,
        owner_id,
        buckets,
        endpoints,
        parse_networks(networks),
        current_slug,
    )


_TABLES = {
    "keys": ApiKey._meta.db_table,
    "secrets": Secret._meta.db_table,
    "teams": Team._meta.db_table,
    "users": User._meta.db_table,
    "memberships": Membership._meta.db_table,
    "catalog_version": CatalogVersion._meta.db_table,
}
_JUDGE = """
SELECT secret.digest, secret.id, apikey.public_id, apikey.team_id, apikey.allowed_models,
       apikey.endpoints, apikey.allowed_networks, team.history_slug, apikey.owner_id,
       apikey.limits, team.limits, team.slug, {clock},
       (SELECT version FROM {catalog_version} WHERE id = 1)
FROM {secrets} secret
JOIN {keys} apikey ON apikey.id = secret.key_id
JOIN {teams} team ON team.id = apikey.team_id
JOIN {users} owner ON owner.id = apikey.owner_id
JOIN {memberships} membership
  ON membership.team_id = apikey.team_id AND membership.user_id = apikey.owner_id
WHERE secret.digest {among}
  AND team.is_active AND owner.is_active AND apikey.disabled_at IS NULL
  AND (apikey.expires_at IS NULL OR apikey.expires_at > {now})
  AND (secret.expires_at IS NULL OR secret.expires_at > {now})
  AND NOT (secret.expires_when_new_used AND EXISTS (
    SELECT 1 FROM {secrets} newer
    WHERE newer.key_id = secret.key_id AND newer.id > secret.id AND newer.last_used_at IS NOT NULL
  ))
"""
# The database's clock decides, so that all hosts agree. Debian 12's SQLite has no unixepoch() with
# fractions of a second, and Django stores times as text in this format.
_SQLITE_NOW = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
_SQLITE_CLOCK = "(julianday('now') - 2440587.5) * 86400.0"
# Attack: a pooler leads to a hot standby that lags, where a deleted key is still valid. The cast
# fails before a row is read. The connection itself was checked when it was opened.
_WRITABLE = """
  AND CAST(CASE current_setting('transaction_read_only')
           WHEN 'off' THEN 'true' ELSE 'The database is read-only.' END AS boolean)
"""
_POSTGRESQL = (_JUDGE + _WRITABLE).format(
    among="= ANY(%s)", now="now()", clock="extract(epoch FROM now())::float8", **_TABLES
)


def _query_postgresql(db: Database, digests: Sequence[bytes]) -> list[Row]:
    return db.rows(_POSTGRESQL, list(digests))


def _query_sqlite(db: Database, digests: Sequence[bytes]) -> list[Row]:
    # Padded to a power of two, so that a few prepared statements are used again and again.
    size = 1 << (len(digests) - 1).bit_length()
    return db.rows(_sqlite_statement(size), *digests, *[digests[-1]] * (size - len(digests)))


@cache
def _sqlite_statement(size: int) -> str:
    placeholders = ", ".join(["%s"] * size)
    return _JUDGE.format(
        among=f"IN ({placeholders})", now=_SQLITE_NOW, clock=_SQLITE_CLOCK, **_TABLES
    )
