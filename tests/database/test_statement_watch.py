"""A page whose database session goes silent in the middle of a statement gets 503."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from django.conf import settings

from tests.support.pgbouncer import pgbouncer
from tests.support.server import PatientServer, Server, database_url, wait_until
from tests.support.silent_relay import SilentRelay

pytestmark = [pytest.mark.gateway, pytest.mark.postgresql]
OwnServer = Callable[..., Server]
SESSION = {"Cookie": "keyportal_session=" + "a" * 32}
"""So that each page looks for the session in the database."""
# In this database. The other processes of the tests have theirs on the same server.
WAITING = """
SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
WHERE NOT granted AND datname = current_database()
"""
# Longer than a silent session is kept, shorter than the time limit for locks.
SLOW_SECONDS = 5


class WatchingServer(PatientServer):
    module = [
        "gunicorn",
        "-c",
        "python:tests.support.gunicorn_watching",
        "keyportal.asgi:application",
    ]


@pytest.fixture
def relay(transactional_db: None) -> Iterator[SilentRelay]:
    (sockets,) = parse_qs(urlsplit(database_url()).query)["host"]
    with SilentRelay(Path(sockets) / ".s.PGSQL.5432").running() as relay:
        yield relay


def test_page_on_a_silent_session_gets_503_and_a_slow_one_its_answer(
    own_server: OwnServer, relay: SilentRelay
) -> None:
    name = urlsplit(database_url()).path
    url = f"postgresql://postgres@127.0.0.1:{relay.port}{name}"
    keyportal = own_server(WatchingServer, DATABASE_URL=url)
    assert slow_page(keyportal, SLOW_SECONDS) == 302
    assert slow_page(keyportal, 0, relay.silence) == 503
    assert keyportal.request("GET", "/", headers=SESSION).status == 302
    assert "Traceback" not in keyportal.log


def test_slow_page_behind_a_pooler_gets_its_answer(
    own_server: OwnServer, transactional_db: None, tmp_path: Path
) -> None:
    """A pooler tells other process ids than those of PostgreSQL."""
    with pgbouncer(database_url(), tmp_path) as url:
        keyportal = own_server(WatchingServer, DATABASE_URL=url, KEYPORTAL_DB_POOLER="transaction")
        assert slow_page(keyportal, SLOW_SECONDS) == 302


def slow_page(keyportal: Server, seconds: float, then: Callable[[], None] = lambda: None) -> int:
    """The status of a page whose statement waits for a lock so long."""
    page = partial(keyportal.request, "GET", "/", headers=SESSION)
    table = import_module(settings.SESSION_ENGINE).SessionStore.get_model_class()._meta.db_table
    with psycopg.connect(database_url()) as other, ThreadPoolExecutor(1) as threads:
        other.execute(f"LOCK TABLE {table}")
        reply = threads.submit(page)
        wait_until(lambda: other.execute(WAITING).fetchone() == (1,))
        time.sleep(seconds)
        then()
        other.rollback()
        return reply.result().status
