"""The verdict on a key: the one query that decides which keys may pass.

This runs in the admission thread: fixed SQL, tuples, nothing of the ORM.
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
from keyportal.gateway.admission.limits import Buckets, accounts
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
    """The key may pass; this is whose it is and what it may call."""

    secret_id: int
    public_id: str
    team_id: int
    models: NamePatterns | None = None
    """Names and patterns; None means all that the team may call."""
    team_slug: str = ""
    owner_id: int = 0
    accounts: Buckets = ()
    """Where its requests count; empty where neither the key nor its team has a limit."""
    endpoints: str = Endpoints.ALL.value
    networks: tuple[Network, ...] = ()
    """Where it may come from; empty means everywhere."""

    def may_call(self, name: str) -> bool:
        """Of a model that the team may call."""
        return self.models is None or name in self.models

    def without_place(self) -> "Verdict":
        """The same, for what never runs: it isn't counted among what runs at one time."""
        counted = _without_place(self.accounts)
        return self if counted == self.accounts else self._replace(accounts=counted)


@lru_cache(8192)
def _without_place(accounts: Buckets) -> Buckets:
    return tuple(account for account in accounts if account.parallel is None)


class Reading(NamedTuple):
    """What one batch learned: the verdicts by digest, the time, and the catalog as it now is."""

    verdicts: dict[bytes, Verdict]
    catalog: Snapshot
    now: float = 0.0
    """Seconds since 1970, on the database's clock."""


def read(digests: Sequence[bytes], catalog: Snapshot) -> Reading:
    """Judge these digests in one SELECT; read the catalog again if it has changed.

    After a failure the connection is closed, because one that broke would stay broken for ever.
    If it had died while it was idle, the batch is read once more on a fresh one.
    """
    was_open = is_open()
    try:
        return _read(digests, catalog)
    except Exception:
        died_idle = was_open and not is_usable()
        close()
        if not died_idle:
            raise
    return read(digests, catalog)


def _read(digests: Sequence[bytes], catalog: Snapshot) -> Reading:
    here = database()
    ask = _ask_postgresql if here.is_postgresql else _ask_sqlite
    rows = ask(here, digests)
    if not rows:
        return Reading({}, catalog)
    *_, now, version = rows[0]
    if version != catalog.version:
        catalog = Snapshot.read(ALIAS)
    return Reading({bytes(row[0]): _verdict(row) for row in rows}, catalog, now)


def _verdict(row: tuple[Any, ...]) -> Verdict:
    _, secret_id, public_id, team_id, models, endpoints, networks, slug, owner_id, *rest = row
    limits, roof, *_ = rest
    counts_in: Buckets = ()
    if limits != "{}" or roof != "{}":
        counts_in = accounts(public_id, parse(limits), slug, parse(roof))
    return Verdict(
        secret_id,
        public_id,
        team_id,
        parse_models(models),
        slug,
        owner_id,
        counts_in,
        endpoints,
        parse_networks(networks),
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
       apikey.endpoints, apikey.networks, team.slug, apikey.owner_id, apikey.limits, team.limits,
       {clock},
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
  AND NOT (secret.lasts_until_used AND EXISTS (
    SELECT 1 FROM {secrets} newer
    WHERE newer.key_id = secret.key_id AND newer.id > secret.id AND newer.last_used_at IS NOT NULL
  ))
"""
# The database's clock decides, so that all hosts agree. Debian 12's SQLite knows no subsecond
# unixepoch(), and Django keeps times as text, which this matches.
_SQLITE_NOW = "strftime('%%Y-%%m-%%d %%H:%%M:%%f', 'now')"
_SQLITE_CLOCK = "(julianday('now') - 2440587.5) * 86400.0"
_POSTGRESQL = _JUDGE.format(
    among="= ANY(%s)", now="now()", clock="extract(epoch FROM now())::float8", **_TABLES
)


def _ask_postgresql(here: Database, digests: Sequence[bytes]) -> list[Row]:
    return here.rows(_POSTGRESQL, list(digests))


def _ask_sqlite(here: Database, digests: Sequence[bytes]) -> list[Row]:
    # Padded to a power of two, so that a handful of statements is prepared and used again.
    size = 1 << (len(digests) - 1).bit_length()
    return here.rows(_sqlite(size), *digests, *[digests[-1]] * (size - len(digests)))


@cache
def _sqlite(size: int) -> str:
    marks = ", ".join(["%s"] * size)
    return _JUDGE.format(among=f"IN ({marks})", now=_SQLITE_NOW, clock=_SQLITE_CLOCK, **_TABLES)
