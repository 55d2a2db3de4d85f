"""Faults of PostgreSQL, and of the way to it."""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg

from keyportal.keys import keystring
from tests.faults import cable
from tests.faults.load import LIMITED, LOST, OK, UNAVAILABLE
from tests.faults.world import LIMIT, MODEL, WORKERS, Result, World
from tests.support.clock import ensure_time_left
from tests.support.pgbouncer import pgbouncer
from tests.support.server import Reply, Server, wait_until
from tests.support.silent_relay import SilentRelay

SESSION = {"Cookie": "keyportal_session=" + "a" * 32}
"""So that each page looks for the session in the database."""
UNKNOWN = keystring.generate(prefix="mk-kp-").text
"""A management key that nobody has, which the database must be asked about."""
# The last statement of each has locked rows of the counters.
IDLE_IN_TRANSACTION = """
SELECT count(*) FROM pg_stat_activity
WHERE state = 'idle in transaction' AND query LIKE '%usage_window%'
AND now() - state_change > interval '100 milliseconds'
"""

DELETE_KEY = """
DELETE FROM keys_secret WHERE key_id IN (SELECT id FROM keys_apikey WHERE name = 'deleted')
"""


def node_vanishes(world: World) -> Result:
    """It vanishes between BEGIN and COMMIT of a batch that counts: its session goes silent."""
    other = world.nodes[1]
    usage = world.begin_to_count()
    with _vanishing(world) as (node, vanish, come_back):
        load = world.load([node.port, other.port], "free", "counted")
        with load.running():
            wait_until(lambda: load.outcomes(port=node.port)[OK] > 20)
            fault = _vanish_in_transaction(world, vanish, come_back)
            time.sleep(world.seconds(8, 5))
            come_back()
            wait_until(lambda: load.outcomes(since=time.monotonic() - 1, port=node.port)[OK])
        text = usage.text()
    wrong = set(load.outcomes()) - {OK, UNAVAILABLE}
    seconds = load.seconds_until_well(fault, other.port)
    refused = load.outcomes(since=fault, port=other.port)[UNAVAILABLE]
    slowest = max(each.ended - each.began for each in load.answers if each.port == other.port)
    way = f"frozen, because {reason}" if (reason := cable.why_not()) else "its cable is pulled"
    return Result(
        f"({way}) the other node's longest wait {slowest:.1f} s, its last 503 after {seconds:.1f} "
        f"s, {refused} in all; {text}",
        world.within(seconds, 3) and not wrong and text == "usage exact",
    )


@contextmanager
def _vanishing(world: World) -> Iterator[tuple[Server, Callable[[], None], Callable[[], None]]]:
    """A node, and how it vanishes and comes back."""
    if cable.why_not():
        node = world.nodes[0]
        send = partial(os.killpg, node.process.pid)
        yield node, partial(send, signal.SIGSTOP), partial(send, signal.SIGCONT)
        return
    with cable.plugged(Path(world.postgresql.pgdata) / ".s.PGSQL.5432") as line:
        node = world.node(DATABASE_URL=line.url)
        yield node, line.pull, line.plug
        assert node.stop() == 0


def _vanish_in_transaction(
    world: World, vanish: Callable[[], None], come_back: Callable[[], None]
) -> float:
    """Again and again until the node has an open transaction. Returns when that was."""
    with psycopg.connect(world.url, autocommit=True) as session:
        for _ in range(500):
            fault = time.monotonic()
            vanish()
            time.sleep(0.15)
            row = session.execute(IDLE_IN_TRANSACTION).fetchone()
            if row is not None and row[0]:
                return fault
            come_back()
            time.sleep(0.02)
    raise AssertionError("The node has never vanished in a transaction.")


def counter_is_locked(world: World) -> Result:
    """Another session locks one key's row of the counters."""
    span = world.seconds(7, 3)
    subject = f"key:{world.public_ids['counted']}"
    ensure_time_left(2 * span + 8)  # In the next minute, another row is counted in.
    load = world.load([node.port for node in world.nodes], "free", "counted")
    usage = world.begin_to_count()
    with load.running(), psycopg.connect(world.url) as session:
        wait_until(lambda: load.outcomes("counted")[OK] > 20)
        began = time.monotonic()
        time.sleep(span)
        locked = time.monotonic()
        rows = session.execute(
            "SELECT 1 FROM usage_window WHERE subject = %s FOR UPDATE", [subject]
        )
        assert rows.fetchall()
        time.sleep(span)
        freed = time.monotonic()
        session.rollback()
        wait_until(lambda: load.outcomes("counted", since=freed)[OK] > 20)
    share = load.rate("free", locked, freed) / load.rate("free", began, locked)
    refused = load.outcomes("free")
    slowest = max(answer.ended - answer.began for answer in load.answers)
    text = usage.text()
    return Result(
        f"a key without limits keeps {share:.0%} of its throughput, "
        f"{refused.total() - refused[OK]} refused; longest wait on the row {slowest:.1f} s; {text}",
        share > (0.3 if world.is_short else 0.9)
        and set(refused) == {OK}
        and world.within(slowest, 2.5)
        and text == "usage exact",
    )


def session_goes_silent(world: World) -> Result:
    """All sessions of a node are held by a relay that acknowledges and drops."""
    with SilentRelay(Path(world.postgresql.pgdata) / ".s.PGSQL.5432").running() as relay:
        node = world.node(DATABASE_URL=f"postgresql://postgres@127.0.0.1:{relay.port}/postgres")
        load = world.load([node.port], "free", "counted")
        with load.running():
            wait_until(lambda: load.outcomes()[OK] > 50)
            fault = time.monotonic()
            relay.silence()
            time.sleep(world.seconds(8, 6))
            wait_until(lambda: load.outcomes(since=time.monotonic() - 1)[OK])
        seconds = load.seconds_until_well(fault)
        relay.silence()
        stopping = time.monotonic()
        code = node.stop()
        stop_seconds = time.monotonic() - stopping
    return Result(
        f"last 503 after {seconds:.1f} s; a stop with silent sessions takes {stop_seconds:.1f} s",
        world.within(seconds, 3)
        and world.within(stop_seconds, 12)
        and code == 0
        and not set(load.outcomes()) - {OK, UNAVAILABLE},
    )


def database_is_gone(world: World) -> Result:
    """PostgreSQL stops, and starts again; people and programs keep asking."""
    node = world.nodes[0]
    usage = world.begin_to_count()
    load = world.load([each.port for each in world.nodes], "free", "counted")
    lines_before = node.log.count("The database is unavailable: ")
    with load.running():
        wait_until(lambda: load.outcomes()[OK] > 50)
        _pages(node, 8)
        world.postgresql.stop()
        fault = time.monotonic()
        slowest, statuses, is_told = 0.0, set[int](), True
        while time.monotonic() < fault + world.seconds(60, 4):
            began = time.monotonic()
            page, resource = _pages(node, 1)
            statuses |= {page.status, resource.status}
            is_told = is_told and _says_why(page, resource)
            slowest = max(slowest, time.monotonic() - began)
        world.postgresql.ensure_postgres_running()
        back = time.monotonic()
        failed = sum(reply.status >= 500 for reply in _pages(node, 16))
        wait_until(lambda: load.outcomes(since=back)[OK] > 50)
        seconds = load.seconds_until_well(back)
    lines = node.log.count("The database is unavailable: ") - lines_before
    text = usage.text()
    return Result(
        f"slowest page {slowest:.1f} s, all {', '.join(map(str, statuses))}; once back {failed} of "
        f"32 pages fail, last call refused after {seconds:.1f} s; {lines} log lines; {text}",
        world.within(slowest, 3)
        and statuses == {503}
        and is_told
        and failed == 0
        and world.within(seconds, 3)
        and lines <= WORKERS
        and "Traceback" not in node.log
        and not set(load.outcomes()) - {OK, UNAVAILABLE}
        and text == "usage exact",
    )


def _says_why(page: Reply, resource: Reply) -> bool:
    return (
        b"Back in a moment" in page.body
        and page.headers["retry-after"] == "5"
        and resource.headers["content-type"] == "application/problem+json"
    )


def _pages(node: Server, count: int) -> list[Reply]:
    """Request this many pages and as many resources of the API, all at once."""
    page = partial(node.request, "GET", "/", headers=SESSION)
    resource = partial(node.request, "GET", "/api/v1/keys", key=UNKNOWN)
    with ThreadPoolExecutor(2 * count) as threads:
        futures = [threads.submit(job) for job in (page, resource) for _ in range(count)]
        return [future.result() for future in futures]


def pooler_is_between(world: World) -> Result:
    """pgbouncer in transaction mode, with three sessions for both workers."""
    usage = world.begin_to_count()
    ensure_time_left(25)
    with pgbouncer(world.url, world.folder) as url:
        node = world.node(Server, DATABASE_URL=url, KEYPORTAL_DB_POOLER="transaction")
        load = world.load([node.port], "free", "counted", "limited")
        with load.running():
            wait_until(lambda: load.outcomes("limited")[LIMITED] > 20)
            began = time.monotonic()
            time.sleep(world.seconds(5, 1))
            rate = load.rate("free", began, time.monotonic())
        node.stop()
    outcomes = load.outcomes()
    admitted = load.outcomes("limited")[OK]
    text = usage.text()
    return Result(
        f"{outcomes[OK]} calls, {rate:.0f}/s for one of three callers; "
        f"{admitted} admitted of a limit of {LIMIT}; {text}",
        not set(outcomes) - {OK, LIMITED}
        and not outcomes[LOST]
        and admitted == LIMIT
        and text == "usage exact",
    )


def standby_lags(world: World) -> Result:
    """A node is led to a hot standby on which a deleted key still exists."""
    with _standby(world) as url:
        world.sql(DELETE_KEY)
        start = world.refused_start(DATABASE_URL=url)
        node = world.node(DATABASE_URL=url)
        outcomes = {node.chat(world.keys[name], MODEL).status for name in ("deleted", "free")}
        ready = node.request("GET", "/readyz").status
        node.kill()
    primary = world.nodes[0].chat(world.keys["deleted"], MODEL).status
    return Result(
        f"calls get {', '.join(map(str, outcomes))} (the primary says {primary}), /readyz {ready}; "
        f"a start says: {start}",
        outcomes == {503} and primary == 401 and ready == 503 and "hot standby" in start,
    )


@contextmanager
def _standby(world: World) -> Iterator[str]:
    """A real standby that applies nothing for an hour. Yields its URL."""
    folder, pg = world.folder / "standby", world.postgresql
    folder.mkdir(mode=0o700)
    sockets = pg.get_uri().partition("host=")[2]
    owner = Path(sockets).owner()
    run = partial(_as_owner, Path(pg.bin_path), owner)
    os.chown(folder, *_ids(owner))
    run("pg_basebackup", "-h", sockets, "-U", "postgres", "-D", str(folder), "-R", "-c", "fast")
    (folder / ".s.PGSQL.5432.lock").unlink()  # The primary's socket is in its data folder.
    options = (
        f"-c listen_addresses= -c unix_socket_directories={folder} "
        "-c recovery_min_apply_delay=1h -c hot_standby=on"
    )
    try:
        run("pg_ctl", "-D", str(folder), "-w", "-o", options, "-l", str(folder / "log"), "start")
        yield f"postgresql://postgres:@/postgres?host={folder}"
    finally:
        run("pg_ctl", "-D", str(folder), "-m", "immediate", "-w", "stop")


def _ids(owner: str) -> tuple[int, int]:
    entry = pwd.getpwnam(owner)
    return entry.pw_uid, entry.pw_gid


def _as_owner(binaries: Path, owner: str, program: str, *arguments: str) -> None:
    user = owner if os.geteuid() == 0 else None
    subprocess.run(
        [binaries / program, *arguments],
        user=user,
        cwd="/",
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
