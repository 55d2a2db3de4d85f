"""Keyportal behind a real pgbouncer in transaction mode, which shares its sessions."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psycopg
import pytest
from django.db import connection
from django.db.models import Sum

from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import User
from keyportal.usage.models import UsageDay
from tests.support.clock import ensure_time_left
from tests.support.pgbouncer import pgbouncer
from tests.support.server import Server, database_url, wait_until

pytestmark = [pytest.mark.gateway, pytest.mark.postgresql]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]
NAMES = (
    *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
    "synchronous_commit",
)
SHOW = f"SELECT {', '.join(f'current_setting({name!r})' for name in NAMES)}"
# The settings in a transaction of each alias, and on its session afterwards.
PRINT_SETTINGS = f"""
from django.db import connections, transaction
for alias in ("default", "admission", "meter"):
    with connections[alias].cursor() as cursor:
        for block in (transaction.atomic(using=alias), transaction.atomic(using=alias)):
            with block:
                cursor.execute({SHOW!r})
                print(*cursor.fetchone())
"""


@pytest.fixture
def pooled(transactional_db: None, tmp_path: Path) -> Iterator[str]:
    """The test database through pgbouncer."""
    with pgbouncer(database_url(), tmp_path) as url:
        yield url


@pytest.fixture
def keyportal(own_server: OwnServer, pooled: str) -> Server:
    return own_server(workers=2, DATABASE_URL=pooled, KEYPORTAL_DB_POOLER="transaction")


def test_calls_limits_pages_and_usage_are_exact(
    keyportal: Server, pooled: str, alice: User, issue: Issue, serve_model: Serve
) -> None:
    model = serve_model("count:12,5")
    limited, limited_text = issue(alice, "limited")
    ApiKey.objects.filter(pk=limited.pk).update(limits=Limits(requests_per_minute=40))
    free, free_text = issue(alice, "free")
    management_key = keystring.generate(prefix="mk-kp-").text
    ensure_time_left(20)

    def call(number: int) -> tuple[str, int]:
        if number % 10 == 0:
            return "page", keyportal.request("GET", "/accounts/login/").status
        if number % 10 == 1:
            return "api", keyportal.request("GET", "/api/v1/keys", key=management_key).status
        name, text = ("limited", limited_text) if number % 2 else ("free", free_text)
        return name, keyportal.chat(text, model).status

    with ThreadPoolExecutor(16) as threads:
        outcomes = Counter(threads.map(call, range(200)))
    assert outcomes[("free", 200)] == 80
    assert (outcomes[("limited", 200)], outcomes[("limited", 429)]) == (40, 40)
    assert outcomes[("page", 200)] == 20
    assert outcomes[("api", 401)] + outcomes[("api", 429)] == 20
    days = UsageDay.objects.filter(public_id__in=[limited.public_id, free.public_id])
    wait_until(lambda: days.aggregate(n=Sum("requests"))["n"] == 120)
    assert days.aggregate(n=Sum("completion_tokens"))["n"] == 120 * 5
    free.revoke(actor=None)
    assert keyportal.chat(free_text, model).status == 401
    assert "Traceback" not in keyportal.log
    assert_sessions_are_clean(pooled)


def assert_sessions_are_clean(pooled: str) -> None:
    """What one client set for its transaction is not set for the next one."""
    with ExitStack() as stack:
        # Each has an open transaction, so each has a session of its own: all three of the pool.
        clients = [stack.enter_context(psycopg.connect(pooled)) for _ in range(3)]
        settings = [client.execute(SHOW).fetchone() for client in clients]
    assert settings == [("0", "0", "0", "on")] * 3


def test_each_transaction_has_its_time_limits(pooled: str, tmp_path: Path) -> None:
    """Else a host that vanishes in a transaction keeps its locks."""
    keyportal = Server(tmp_path, DATABASE_URL=pooled, KEYPORTAL_DB_POOLER="transaction")
    lines = keyportal.manage("shell", "-v", "0", "-c", PRINT_SETTINGS).splitlines()
    assert lines == ["1min 10s 1min on"] * 2 + ["2s 2s 2s off"] * 4
    checks = keyportal.run_manage("check", "--database", "default")
    assert "(keyportal.W007)" in checks.stderr
    assert "ALTER ROLE postgres SET statement_timeout = '60s'" in checks.stderr


def test_a_pooler_that_leads_to_a_standby_serves_nothing(
    keyportal: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    """pgbouncer tells its clients what it learnt from the first session that it opened."""
    _, key = issue(alice)
    model = serve_model("count:1,1")
    page = {"Cookie": "keyportal_session=" + "a" * 32}
    assert keyportal.chat(key, model).status == 200
    assert keyportal.request("GET", "/", headers=page).status == 302
    set_read_only("on")
    try:
        wait_until(lambda: keyportal.chat(key, model).status == 503)
        for _ in range(4):
            assert keyportal.chat(key, model).code == "database_unavailable"
            assert keyportal.request("GET", "/", headers=page).status == 503
        assert keyportal.request("GET", "/readyz").json()["reason"] == "database"
    finally:
        set_read_only("off")
    wait_until(lambda: keyportal.chat(key, model).status == 200)
    wait_until(lambda: keyportal.request("GET", "/", headers=page).status == 302)


def set_read_only(value: str) -> None:
    """As the sessions of a standby are, from now on; and end all others."""
    with connection.cursor() as cursor:
        name = connection.ops.quote_name(str(connection.settings_dict["NAME"]))
        cursor.execute("SET default_transaction_read_only = off")
        cursor.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
