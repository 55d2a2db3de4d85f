"""The backend's wrapper, where Django looks for it."""

from collections.abc import Callable
from functools import partial
from threading import Timer
from typing import Any

import psycopg
from django.db.backends.postgresql import base

from keyportal.database.session import shut_down
from keyportal.database.statement_watch import statement_watch

CHECK_SECONDS = 1.0


class DatabaseWrapper(base.DatabaseWrapper):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Other connections are watched by the event loop, or belong to commands.
        self._is_watched = bool(self.settings_dict["OPTIONS"].get("pool"))
        if self._is_watched:
            self.execute_wrappers.append(partial(statement_watch.run, self))

    def commit(self) -> None:
        self._run_watched(super().commit)

    def rollback(self) -> None:
        self._run_watched(super().rollback)

    def _run_watched(self, function: Callable[[], None]) -> None:
        if self._is_watched:
            statement_watch.run(self, function)
        else:
            function()

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection that answers, and can be written.

        The pool's own check waits for a silent session without end, and for a second after each
        broken connection. A restart of the database breaks all of them.

        Attack: a pooler gives a session on a hot standby that lags, where a deleted management key
        is still valid.
        """
        while True:
            connection = super().get_new_connection(conn_params)
            if self.pool is None:
                return connection
            is_read_only = _is_read_only(connection)
            if is_read_only is False:
                return connection
            connection.close()
            self.pool.putconn(connection)  # It is closed, so the pool makes another one.
            if is_read_only:
                raise psycopg.errors.ReadOnlySqlTransaction("session is read-only")
            self.pool.drain()

    def set_autocommit(
        self, autocommit: bool, force_begin_transaction_with_broken_autocommit: bool = False
    ) -> None:
        """Begin each transaction with its own settings, if a pooler shares the session."""
        super().set_autocommit(autocommit, force_begin_transaction_with_broken_autocommit)
        if not autocommit and (statements := self.transaction_settings()):
            with self.cursor() as cursor:
                cursor.execute(statements)

    def transaction_settings(self) -> str:
        """The statements that set time-outs for one transaction; empty if the session has them."""
        settings: dict[str, str] = self.settings_dict.get("TRANSACTION_SETTINGS", {})
        return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())


def _is_read_only(connection: Any) -> bool | None:
    """None if it doesn't answer."""
    timer = Timer(CHECK_SECONDS, shut_down, [connection])
    timer.start()
    try:
        row = connection.execute("SHOW transaction_read_only").fetchone()
    except psycopg.Error:
        return None
    finally:
        timer.cancel()
    return bool(row == ("on",))
