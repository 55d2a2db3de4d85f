"""What keys were used for, gathered here and written by a thread of its own once a second.

No verdict and no answer ever waits for a write. A kill -9 loses at most the last second.
"""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import NamedTuple

from django.db import connections, transaction

from keyportal.asgi_types import Scope
from keyportal.keys import secret
from keyportal.keys.models import Secret

ALIAS = "meter"
FLUSH_SECONDS = 1.0
SLICE = 200  # Rows a transaction: on SQLite it holds the only write lock, for a few ms.

logger = logging.getLogger(__name__)


class Use(NamedTuple):
    """When and from where a secret was last used; what came over the wire is not yet read."""

    at: datetime
    scope: Scope

    @property
    def ip(self) -> str | None:
        client = self.scope.get("client")
        return client[0] if client else None

    @property
    def agent(self) -> str:
        """The User-Agent as text that a database and a page can take; at most 200 characters."""
        sent = dict(self.scope["headers"]).get(b"user-agent", b"").decode("latin-1")
        # Someone may send their key as the agent: what is stored and shown never holds one.
        return secret.redact("".join(filter(str.isprintable, sent)))[:200]


class Meter:
    """One per worker. `saw` runs in the event loop, everything else in the meter's thread."""

    def __init__(self) -> None:
        self._last_uses: dict[int, Use] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="meter")

    def saw(self, secret_id: int, scope: Scope) -> None:
        """Note that a request was let in with this secret."""
        self._last_uses[secret_id] = Use(datetime.now(UTC), scope)

    async def flush_forever(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what was gathered. What can't be written now is kept for the next time."""
        uses, self._last_uses = self._last_uses, {}
        if not uses:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, write, uses)
        except Exception as error:
            logger.warning("Last uses not written yet: %s: %s", type(error).__name__, error)
            self._last_uses = uses | self._last_uses

    async def close(self) -> None:
        await self.flush()
        self._thread.submit(close)
        self._thread.shutdown(wait=False)


# What follows runs in the meter's thread.


def close() -> None:
    # Looked up here, because elsewhere it would be another thread's connection.
    connections[ALIAS].close()


def write(uses: dict[int, Use]) -> None:
    """Writing the same again changes nothing."""
    # All writers take rows in one order, so that none waits for another in a circle.
    rows = sorted(uses.items())
    try:
        for start in range(0, len(rows), SLICE):
            _write(rows[start : start + SLICE])
    except BaseException:
        connections[ALIAS].close()
        raise


def _write(rows: list[tuple[int, Use]]) -> None:
    secrets = [
        Secret(pk=pk, last_used_at=use.at, last_used_ip=use.ip, last_used_agent=use.agent)
        for pk, use in rows
    ]
    with transaction.atomic(using=ALIAS):
        Secret.objects.using(ALIAS).bulk_update(
            secrets, ["last_used_at", "last_used_ip", "last_used_agent"]
        )
