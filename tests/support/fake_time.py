"""An event loop that does not wait: its clock moves on to what comes next.

How long something takes is exact, whatever else the machine does.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any


class Selector(selectors.DefaultSelector):
    """Doesn't wait, but moves its clock forward by the time-out."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def run(work: Coroutine[Any, Any, object]) -> float:
    """Run it, and return how many seconds it takes."""

    async def timed() -> float:
        await work
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=Loop) as runner:
        return runner.run(timed())
