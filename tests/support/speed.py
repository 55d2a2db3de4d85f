"""Time limits that scale with the speed of the machine."""

import time
from collections.abc import Callable

REFERENCE_SECONDS = 0.02
"""Duration of `reference_work` on the machine for which the limits are written."""


def runs_within(action: Callable[[], object], *, max_seconds: float) -> bool:
    """Whether the action takes at most `max_seconds`, scaled by `reference_work`.

    The best of ten attempts counts, because other tests run at the same time.
    """
    return any(
        seconds(action) < max_seconds * max(1, seconds(reference_work) / REFERENCE_SECONDS)
        for _ in range(10)
    )


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def reference_work() -> None:
    sorted(str(number * 7919 % 100_003) for number in range(50_000))
