"""The memory for large bodies: fair parts, waiting, and that all of it comes back."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from keyportal.gateway.errors import GatewayError, SlowBody, TooManyLargeBodies
from keyportal.gateway.relay import body_budget as module
from keyportal.gateway.relay.body_budget import BodyBudget, Reservation

pytestmark = pytest.mark.any_database
SIZE = 1600  # A team has 800 of it, a key 400.


class Body:
    """A body of one key. It records the error that ends its call."""

    def __init__(self, budget: BodyBudget, key: str = "a", team: str = "acme") -> None:
        self.errors: list[GatewayError] = []
        self.reservation = Reservation(budget, key, team, self.errors.append)

    def start(self, size: int) -> asyncio.Task[None]:
        return asyncio.create_task(self.reservation.grow(size))

    async def has_room(self, size: int) -> bool:
        """Whether it gets this size without waiting; if not, it waits on."""
        task = self.start(size)
        await turns()
        return task.done()


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def assert_empty(budget: BodyBudget) -> None:
    assert (budget.held, budget.waiting) == (0, 0)
    assert not any(vars(budget)[name] for name in ("_held", "_waiting", "_waiting_in", "_arriving"))


def test_key_team_and_worker_have_their_parts() -> None:
    async def run() -> None:
        budget = BodyBudget(SIZE)
        assert await Body(budget, "a").has_room(400)
        assert not await Body(budget, "a").has_room(1)
        assert await Body(budget, "b").has_room(400)
        assert not await Body(budget, "c").has_room(1)
        assert await Body(budget, "d", "other").has_room(400)
        assert await Body(budget, "e", "other").has_room(400)
        assert not await Body(budget, "f", "third").has_room(400)
        assert (budget.held, budget.waiting) == (SIZE, 3)

    asyncio.run(run())


def test_single_body_is_taken_whatever_its_size() -> None:
    """Or it would wait for itself."""

    async def run() -> None:
        budget = BodyBudget(SIZE)
        body = Body(budget)
        assert await body.has_room(10 * SIZE)
        assert await body.has_room(20 * SIZE)
        assert not await Body(budget).has_room(1)
        body.reservation.release()
        await turns()
        assert budget.held == 1

    asyncio.run(run())


def test_bodies_of_one_key_go_in_order_and_keys_by_turns() -> None:
    async def run() -> None:
        budget = BodyBudget(100)
        blocking = Body(budget, "other", "other")
        await blocking.reservation.grow(100)
        order: list[str] = []

        async def take(key: str, name: str) -> None:
            body = Body(budget, key, f"team of {key}")
            await body.reservation.grow(100)
            order.append(name)
            body.reservation.release()

        names = [("a", "a1"), ("a", "a2"), ("a", "a3"), ("b", "b1"), ("c", "c1"), ("b", "b2")]
        tasks = [asyncio.create_task(take(*name)) for name in names]
        await turns()
        blocking.reservation.release()
        await asyncio.gather(*tasks)
        assert order == ["a1", "b1", "c1", "a2", "b2", "a3"]
        assert_empty(budget)

    asyncio.run(run())


def test_body_of_another_key_is_not_delayed_by_those_that_wait() -> None:
    async def run() -> None:
        budget = BodyBudget(SIZE)
        flood = [Body(budget, "a") for _ in range(100)]
        tasks = [body.start(200) for body in flood]
        await turns()
        assert sum(task.done() for task in tasks) == 2
        assert await Body(budget, "b").has_room(400)
        assert await Body(budget, "c", "other").has_room(400)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert budget.waiting == 0

    asyncio.run(run())


def test_body_that_waits_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.02)

    async def run() -> None:
        budget = BodyBudget(SIZE)
        first, second, small = Body(budget), Body(budget), Body(budget)
        await first.reservation.grow(300)
        waits = second.start(200)
        await turns()
        behind = small.start(100)  # It has room, but waits for its turn.
        await turns()
        assert not behind.done()
        with pytest.raises(TooManyLargeBodies) as refusal:
            await waits
        assert dict(refusal.value.headers)[b"retry-after"] == b"5"
        await behind
        for body in (first, second, small):
            body.reservation.release()
        assert_empty(budget)

    asyncio.run(run())


def test_number_of_waiting_bodies_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: connections that wait have up to 320 KiB each in the server's buffers."""
    monkeypatch.setattr(module, "MAX_WAITING", 8)

    async def run() -> None:
        budget = BodyBudget(SIZE)
        await Body(budget).reservation.grow(400)
        tasks = [Body(budget).start(1) for _ in range(2)]
        await turns()
        with pytest.raises(TooManyLargeBodies):
            await Body(budget).reservation.grow(1)
        assert await Body(budget, "b").has_room(1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(run())


def test_growing_body_goes_before_new_ones_and_two_do_not_block_each_other_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.02)

    async def run() -> None:
        budget = BodyBudget(SIZE)
        first, second, new = Body(budget), Body(budget), Body(budget)
        await first.reservation.grow(200)
        await second.reservation.grow(200)
        waits = [new.start(10), first.start(300)]
        await turns()
        second.reservation.settle(50)
        await turns()
        assert [task.done() for task in waits] == [True, True]
        new.reservation.release()
        await second.reservation.grow(100)
        both = [first.start(400), second.start(300)]
        done = await asyncio.gather(*both, return_exceptions=True)
        assert any(isinstance(error, TooManyLargeBodies) for error in done)
        first.reservation.release()
        second.reservation.release()
        assert_empty(budget)

    asyncio.run(run())


@contextmanager
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    with monkeypatch.context() as patch:
        patch.setattr("keyportal.gateway.relay.body_budget.time.monotonic", lambda: now[0])
        yield now


def test_slow_bodies_of_others_are_ended_while_somebody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Attack: a few bodies, sent byte by byte with keys of several teams, hold all memory."""
    monkeypatch.setattr(module, "BYTES_PER_SECOND", 100)

    async def run() -> None:
        budget = BodyBudget(SIZE)
        with clock(monkeypatch) as now:
            slow = [Body(budget, key, team) for key, team in zip("abcd", "eeff", strict=True)]
            for body in slow:
                await body.reservation.grow(400)
            complete, own = slow[0], slow[3]
            complete.reservation.settle(400)
            now[0] += 5.9
            wait = [Body(budget, "d", "f").start(10), Body(budget, "x", "y").start(10)]
            await turns()
            assert not any(body.errors for body in slow)
            now[0] += 0.2
            wait.append(Body(budget, "z", "y").start(10))
            await turns()
        assert [len(body.errors) for body in slow] == [0, 1, 1, 1]
        assert isinstance(slow[1].errors[0], SlowBody)
        assert own.errors
        for task in wait:
            task.cancel()
        await asyncio.gather(*wait, return_exceptions=True)

    asyncio.run(run())


def test_slow_body_is_not_ended_by_its_own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        budget = BodyBudget(SIZE)
        with clock(monkeypatch) as now:
            slow = Body(budget)
            await slow.reservation.grow(400)
            now[0] += 1000
            waiting = Body(budget).start(10)
            await turns()
        assert not slow.errors
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)

    asyncio.run(run())


def test_body_may_stay_in_memory_only_while_the_largest_still_has_room(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 100

    async def run() -> None:
        budget = BodyBudget(SIZE)
        body = Body(budget)
        await body.reservation.grow(300)
        assert body.reservation.may_stay()
        await Body(budget, "b").reservation.grow(400)
        assert body.reservation.may_stay()
        other = Body(budget)
        await other.reservation.grow(1)
        assert not body.reservation.may_stay()

    asyncio.run(run())


steps = st.lists(
    st.tuples(st.sampled_from(["grow", "settle", "release", "cancel"]), st.integers(0, 11))
    | st.just(("turn", 0)),
    max_size=60,
)


@given(steps, st.lists(st.integers(1, 900), min_size=12, max_size=12))
def test_all_memory_comes_back_and_no_part_is_exceeded(
    steps: list[tuple[str, int]], sizes: list[int]
) -> None:
    """Whatever bodies do: grow, wait, arrive, are cancelled while they wait or just after."""

    async def run() -> None:
        budget = BodyBudget(SIZE)
        bodies = [Body(budget, "abcd"[number % 4], "xy"[number % 2]) for number in range(12)]
        tasks: dict[int, asyncio.Task[None]] = {}
        for step, number in steps:
            body = bodies[number].reservation
            if step == "turn":
                await asyncio.sleep(0)
            elif number in tasks and not tasks[number].done():
                if step == "cancel":
                    tasks[number].cancel()
            elif step == "grow":
                tasks[number] = bodies[number].start(max(sizes[number], body.size + 1))
            elif step == "settle":
                body.settle(body.size // 2)
            else:
                body.release()
            check_parts(budget, [body.reservation for body in bodies])
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for each in bodies:
            each.reservation.release()
        assert_empty(budget)

    asyncio.run(run())


def check_parts(budget: BodyBudget, reservations: list[Reservation]) -> None:
    assert budget.held == sum(reservation.size for reservation in reservations)
    for part in {part for reservation in reservations for part in reservation.parts}:
        sizes = [r.size for r in reservations if part in r.parts and r.size]
        assert sum(sizes) <= part.share * SIZE or len(sizes) == 1
