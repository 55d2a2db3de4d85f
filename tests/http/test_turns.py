"""Large bodies take turns, and other work comes between."""

import asyncio

import pytest

from keyportal.http.turns import LEAST_PAUSE_SECONDS, PAUSE_SECONDS, TURN_BYTES, Pace, Turns
from tests.support import fake_time

pytestmark = pytest.mark.any_database


def test_other_work_comes_between_any_two_steps_of_large_bodies() -> None:
    """However many bodies there are."""

    async def run() -> list[str]:
        turns, order = Turns(), []

        async def send_body() -> None:
            pace = Pace(turns)
            for _ in range(4):
                order.append("body")
                await pace.after(3 * TURN_BYTES)

        async def work() -> None:
            while True:
                order.append("other")
                await asyncio.sleep(0)

        other = asyncio.create_task(work())
        await asyncio.gather(*(send_body() for _ in range(50)))
        other.cancel()
        return order

    order = asyncio.run(run())
    later = order[51:]  # The first part of each has arrived already.
    assert later.count("body") == 150
    assert later.count("other") > 2 * 150
    assert "body body" not in " ".join(later)


def test_small_parts_take_a_turn_only_together() -> None:
    async def run() -> None:
        pace = Pace(Turns())
        coroutine = pace.after(TURN_BYTES - 1)
        with pytest.raises(StopIteration):
            coroutine.send(None)  # It does not wait.
        waits = pace.after(1)
        waits.send(None)
        waits.close()

    asyncio.run(run())


def test_body_that_ends_while_it_waits_blocks_no_other() -> None:
    async def run() -> None:
        turns = Turns()
        tasks = [asyncio.create_task(turns.take(3)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in tasks[:4]:
            task.cancel()
        async with asyncio.timeout(60):
            await tasks[4]
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_each_key_gets_as_many_turns_whatever_the_number_of_its_bodies() -> None:
    """And each team as many as another one, whatever the number of its keys."""

    async def run() -> list[str]:
        turns, order = Turns(), []

        async def send_body(team: str, key: str) -> None:
            pace = Pace(turns.of(team, key))
            for _ in range(10):
                await pace.after(TURN_BYTES)
                order.append(team if team == "other" else key)

        many = [send_body("flood", key) for key in ("one", "two") for _ in range(20)]
        await asyncio.gather(*many, send_body("flood", "alone"), send_body("other", "key"))
        return order

    order = asyncio.run(run())
    assert order.count("one") == 200
    others_end = len(order) - order[::-1].index("other")
    assert others_end <= 2 * 10 + 2
    alone_ends = len(order) - order[::-1].index("alone")
    assert alone_ends <= others_end + 3 * 10


def test_large_bodies_pause_so_that_they_never_take_all_time() -> None:
    async def work() -> None:
        turns = Turns()
        await asyncio.gather(*(turns.of("team", str(key)).take(20) for key in range(5)))

    least = 100 * PAUSE_SECONDS - LEAST_PAUSE_SECONDS
    assert least <= fake_time.run(work()) <= 100 * PAUSE_SECONDS + 1e-9
