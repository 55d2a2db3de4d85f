"""Bounds on seconds that a slow or busy machine is held to no more strictly than a quick one."""

import time
from collections.abc import Callable

QUICK = 0.02
"""Seconds that the yardstick takes on a machine such as those that the bounds are written for."""


def takes(act: Callable[[], object], *, at_most: float) -> bool:
    """Whether it takes so many seconds, measured beside work that is the same on all machines.

    The best of ten tries, because other tests run at the same time.
    """
    return any(seconds(act) < at_most * max(1, seconds(yardstick) / QUICK) for _ in range(10))


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def yardstick() -> None:
    sorted(str(number * 7919 % 100_003) for number in range(50_000))
