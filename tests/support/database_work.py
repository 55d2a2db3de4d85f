"""How much the database does for an action: the same number on every machine, busy or not."""

from collections.abc import Callable

from django.db import connection

STEPS_A_CALL = 100
READ = """
SELECT coalesce(sum(seq_tup_read + coalesce(idx_tup_fetch, 0)), 0) FROM pg_stat_xact_user_tables"""


def database_work(action: Callable[[], object]) -> int:
    """On PostgreSQL the rows read, of tables and by indexes, in a test that is one transaction. On
    SQLite the steps of its virtual machine, of which a row takes about ten to a hundred.
    """
    if connection.vendor == "postgresql":
        before = _rows_read()
        action()
        return _rows_read() - before
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1

    connection.ensure_connection()
    connection.connection.set_progress_handler(count, STEPS_A_CALL)
    try:
        action()
    finally:
        connection.connection.set_progress_handler(None, 0)
    return calls * STEPS_A_CALL


def _rows_read() -> int:
    with connection.cursor() as cursor:
        cursor.execute(READ)
        return int(cursor.fetchone()[0])
