"""Ends a PostgreSQL session that another thread waits for."""

import os
import socket
from contextlib import suppress
from typing import Any

import psycopg


def shut_down(connection: Any) -> None:
    """Shut the socket of this connection down; the statement that waits for it fails.

    Closing it would be wrong: the other thread could then use a file of the same number.
    """
    if not isinstance(connection, psycopg.Connection):
        return  # SQLite, or the connection is being opened, which has its own time-out.
    with (
        suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as duplicate,
    ):
        # If it was closed meanwhile, the duplicate may be of another file.
        if not connection.closed:
            duplicate.shutdown(socket.SHUT_RDWR)
