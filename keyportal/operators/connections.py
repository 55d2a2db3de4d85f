"""The page's connection to the database, while another server is asked."""

from django.db import connection


def release_connection() -> None:
    """Return the connection to the pool while a server is asked, which takes up to a minute.

    Attack: a few slow servers hold all connections, and no page opens.
    """
    if not connection.in_atomic_block:
        connection.close()
