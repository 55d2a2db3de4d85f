"""The backend's wrapper, where Django looks for it."""

from threading import Timer
from typing import Any

import psycopg
from django.db.backends.postgresql import base

from keyportal.database.session import shut_down

CHECK_SECONDS = 1.0


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """Return a connection that answers.

        The pool's own check waits for a silent session without end, and for a second after each
        broken connection. A restart of the database breaks all of them.
        """
        while True:
            connection = super().get_new_connection(conn_params)
            if self.pool is None or _answers(connection):
                return connection
            self.pool.putconn(connection)  # It is closed, so the pool makes another one.
            self.pool.drain()


def _answers(connection: Any) -> bool:
    timer = Timer(CHECK_SECONDS, shut_down, [connection])
    timer.start()
    try:
        connection.execute("")
    except psycopg.Error:
        connection.close()
        return False
    finally:
        timer.cancel()
    return True
