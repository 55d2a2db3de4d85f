"""Django's DATABASES, made of DATABASE_URL. Knows no settings.

One database with three aliases, so that portal pages, verdicts and the meter's flush never wait for
each other's connection.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from environ import Env

Config = dict[str, Any]
SCHEMES = ("sqlite", "postgres", "postgresql")
# Each has a connection of its own, which is opened in its own thread after the fork and stays open.
_PERSISTENT = {"CONN_MAX_AGE": None, "TEST": {"MIRROR": "default"}}
# A page waits for a connection for at most two seconds.
_POOL = {"min_size": 0, "max_size": 8, "timeout": 2.0, "reconnect_timeout": 1.0}

# Every statement is planned once, for any parameters, with indexes: to plan the query of verdicts
# takes three times as long as to execute it. A plan that was made while a table was small would go
# on to scan it when it is large. Before PostgreSQL 18, a plan that can't avoid what is off looks so
# expensive that it would be compiled.
_FIXED_PLANS = {
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}


def read_url(url: str, data_folder: Path) -> Config:
    """Raises `ImproperlyConfigured`. The folder of an SQLite file must exist, but for ours."""
    # The message doesn't repeat the URL, which may contain a password.
    if url.partition(":")[0] not in SCHEMES:
        raise ImproperlyConfigured(
            "DATABASE_URL must begin with sqlite:/// or postgresql://, "
            f"not {url.partition(':')[0][:20]}:"
        )
    if url.startswith("sqlite") and not url.startswith("sqlite:///"):
        raise ImproperlyConfigured("DATABASE_URL for SQLite needs three slashes: sqlite:///FILE.")
    try:
        config: Config = Env.db_url_config(url)
    except ValueError:
        config = {}
    if config.get("NAME", "") in {"", ":memory:"}:
        raise ImproperlyConfigured(
            "DATABASE_URL can't be read. It must look like sqlite:////srv/keyportal.sqlite3 "
            "or postgresql://user:password@host:5432/name."
        )
    folder = Path(config["NAME"]).parent
    if url.startswith("sqlite") and folder != data_folder and not folder.is_dir():
        # SQLite's own message doesn't name the folder.
        raise ImproperlyConfigured(f"DATABASE_URL: the folder {folder} does not exist.")
    return config


def databases(config: Config, *, has_pooler: bool) -> dict[str, Config]:
    """By their aliases. Behind a pooler, nothing is set for a session, because each transaction
    may get another one.
    """
    if not config["ENGINE"].endswith("postgresql"):
        return {
            # Under ASGI each request has a thread of its own, so a persistent connection would
            # leak.
            "default": _sqlite(config, durable=True) | {"CONN_MAX_AGE": 0},
            "admission": _sqlite(config, durable=False) | _PERSISTENT,
            "meter": _sqlite(config, durable=False) | _PERSISTENT,
        }
    # Django turns off server-side binding and prepared statements, because of external connection
    # poolers. These two aliases have few and fixed statements, so preparing them saves time.
    prepared = {
        "server_side_binding": True,
        "prepare_threshold": None if has_pooler else 1,
        "tcp_user_timeout": 2000,
    }
    page = _postgresql(config, {"pool": _POOL}, durable=True, has_pooler=has_pooler)
    admission, meter = (
        _postgresql(config, prepared, plans, durable=False, has_pooler=has_pooler) | _PERSISTENT
        for plans in (_FIXED_PLANS, {})
    )
    return {"default": page, "admission": admission, "meter": meter}


def _postgresql(
    config: Config,
    options: Mapping[str, object],
    plans: Mapping[str, str] = MappingProxyType({}),
    *,
    durable: bool,
    has_pooler: bool,
) -> Config:
    """With `durable`, a deletion survives a power cut. Counters may lose their last second.

    The server ends a transaction that is idle: a host that vanished before its COMMIT would keep
    its locks for as long as TCP notices nothing, which is two hours.

    Attack: a hot standby that lags has keys that were deleted. No session is opened on one.
    """
    commit = "on" if durable else "off"
    statement, lock, idle = ("60s", "10s", "60s") if durable else ("2s", "2s", "2s")
    session = {
        "statement_timeout": statement,
        "lock_timeout": lock,
        "idle_in_transaction_session_timeout": idle,
        "synchronous_commit": commit,
        **plans,
    }
    session_options = " ".join(f"-c {name}={value}" for name, value in session.items())
    return config | {
        "ENGINE": "keyportal.database.postgresql",
        "TRANSACTION_SETTINGS": session if has_pooler else {},
        # Django would open cursors that outlive a transaction.
        "DISABLE_SERVER_SIDE_CURSORS": has_pooler,
        "OPTIONS": {
            "connect_timeout": 2,
            **({} if has_pooler else {"options": session_options}),
            **config.get("OPTIONS", {}),
            **options,
            "target_session_attrs": "read-write",
        },
    }


def _sqlite(config: Config, *, durable: bool) -> Config:
    pragmas = f"PRAGMA journal_mode=WAL; PRAGMA synchronous={'FULL' if durable else 'NORMAL'};"
    options = {
        "init_command": pragmas,
        # A transaction that may write takes its lock at once: a read that is upgraded later fails
        # with "database is locked", however long it waits.
        "transaction_mode": "IMMEDIATE",
        "timeout": 20 if durable else 2,
    }
    return config | {"OPTIONS": options}
