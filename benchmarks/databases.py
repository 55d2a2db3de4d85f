"""A new database for each start of Keyportal: on the server in `DATABASE_URL`, or SQLite."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
from psycopg import sql

from benchmarks.processes import OTHER_CORES, Server

SERVER_URL = os.environ.get("DATABASE_URL", "")
IS_POSTGRESQL = SERVER_URL.startswith("postgres")
NAME = "PostgreSQL" if IS_POSTGRESQL else "SQLite"


def server() -> Server | None:
    """PostgreSQL's main process, pinned with its children to the other cores.

    None for SQLite, which runs inside the worker.
    """
    if not IS_POSTGRESQL:
        return None
    folder = Path(parse_qs(urlsplit(SERVER_URL).query)["host"][0])
    pid = int((folder / "postmaster.pid").read_text().split()[0])
    os.sched_setaffinity(pid, map(int, OTHER_CORES.split(",")))
    return Server(SERVER_URL, pid)


@contextmanager
def fresh(folder: str) -> Iterator[str]:
    """The `DATABASE_URL` of an empty database; SQLite's is a file in `folder`."""
    if not IS_POSTGRESQL:
        yield f"sqlite:///{folder}/bench.sqlite3"
        return
    name = f"bench_{secrets.token_hex(4)}"
    _run("CREATE DATABASE {}", name)
    try:
        yield urlsplit(SERVER_URL)._replace(path=f"/{name}").geturl()
    finally:
        _run("DROP DATABASE {} WITH (FORCE)", name)


def _run(statement: str, name: str) -> None:
    with psycopg.connect(SERVER_URL, autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
