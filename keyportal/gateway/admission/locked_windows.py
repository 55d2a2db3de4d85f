"""The windows that another transaction has locked: what counts there waits, and nothing else does.

A transaction that adds to many windows waits for the first one that is locked, and all its keys
with it. So it waits only a moment. Then each of its windows is tried alone, and what counts in a
locked one is put aside until it is free. There is no second thread that waits for locks.
"""

import time
from collections.abc import Iterable

from keyportal.gateway.admission import limiter_sql
from keyportal.gateway.admission.limits import Buckets, WindowKey

# How long the thread may try windows, each of which takes limiter_sql.TRY_MS if it is locked.
FIND_SECONDS = 0.02
CHECK_SECONDS = 0.005


class LockedWindows:
    """Those of one worker. Every method runs in the admission thread."""

    def __init__(self) -> None:
        self._keys: dict[WindowKey, None] = {}  # In the order in which they are tried.

    def __bool__(self) -> bool:
        return bool(self._keys)

    def touch(self, buckets: Buckets) -> bool:
        """Whether one of these buckets is counted in a locked window."""
        return any(bucket.key in self._keys for bucket in buckets)

    def add(self, keys: Iterable[WindowKey]) -> None:
        self._keys |= dict.fromkeys(keys)

    def find(self, keys: Iterable[WindowKey]) -> None:
        """Add those of these windows that are locked; without time to try one, it is added too."""
        until = time.monotonic() + FIND_SECONDS
        self.add(
            key for key in keys if time.monotonic() > until or limiter_sql.is_window_locked(key)
        )

    def check(self) -> bool:
        """Try as many windows again as there is time for; returns whether one is free now."""
        until = time.monotonic() + CHECK_SECONDS
        count = len(self._keys)
        for key in tuple(self._keys):
            if time.monotonic() > until:
                break
            del self._keys[key]
            if limiter_sql.is_window_locked(key):
                self._keys[key] = None
        return len(self._keys) < count
