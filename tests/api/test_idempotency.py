"""An Idempotency-Key: done once, told twice, and the plaintext told once."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import connections
from django.utils import timezone

from keyportal.api.models import ManagementKey, Remembered
from keyportal.api.remembered import ABANDONED, KEPT, InProgress, Overtaken
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.api.programs import Manager, Program, problem


def post(program: Program, body: dict[str, Any], key: str = "one") -> Any:
    return program.post("keys", body, Idempotency_Key=key)


def test_a_repeated_create_tells_the_same_without_the_plaintext(
    manager: Manager, ada: User
) -> None:
    program = manager(ada)
    first = post(program, {"name": "ci", "tags": ["a"]})
    again = post(program, {"tags": ["a"], "name": "ci"})  # Order is no difference.
    assert (first.status_code, again.status_code) == (201, 201)
    assert "Idempotent-Replayed" not in first
    assert again["Idempotent-Replayed"] == "true"
    assert again.json() == {**first.json(), "key": None}
    assert first.json()["key"].startswith("sk-kp-")
    assert ApiKey.objects.count() == 1


def test_what_is_kept_holds_neither_the_key_nor_the_idempotency_key(
    manager: Manager, ada: User
) -> None:
    told = post(manager(ada), {"name": "ci"}, "a-rather-long-idempotency-key").json()
    (kept,) = Remembered.objects.values()
    assert told["key"][14:] not in str(kept)
    assert "a-rather-long" not in str(kept)


def test_a_repeated_rotation_rotates_once(manager: Manager, ada: User) -> None:
    program = manager(ada)
    made = program.post("keys", {"name": "ci"}).json()
    address = f"keys/{made['id']}/rotate"
    first = program.post(address, {"grace": "now"}, Idempotency_Key="two").json()
    again = program.post(address, {"grace": "now"}, Idempotency_Key="two").json()
    assert again == {**first, "key": None}
    assert ApiKey.objects.get().current_secret.last4 == first["key"][-4:]


def test_another_body_or_address_with_the_same_key_is_refused(manager: Manager, ada: User) -> None:
    program = manager(ada)
    made = post(program, {"name": "ci"}).json()
    problem(post(program, {"name": "ci-2"}), 422, "idempotency-key-reused")
    rotated = program.post(f"keys/{made['id']}/rotate", {"grace": "now"}, Idempotency_Key="one")
    problem(rotated, 422, "idempotency-key-reused")
    assert ApiKey.objects.count() == 1


def test_another_management_keys_idempotency_keys_are_its_own(
    manager: Manager, ada: User, bob: User, charlie: User, other_team: Team
) -> None:
    """Or another team could read what was made, or block it, by guessing the key."""
    program = manager(ada)
    first = post(program, {"name": "ci"})
    theirs = post(manager(charlie, team=other_team), {"name": "ci"})
    second = post(manager(bob, "bobs"), {"name": "ci-2"})
    assert [one.status_code for one in (first, theirs, second)] == [201] * 3
    for one in (theirs, second):
        assert "Idempotent-Replayed" not in one
        assert one.json()["id"] != first.json()["id"]


def test_a_refusal_is_not_remembered(manager: Manager, ada: User, team: Team) -> None:
    program = manager(ada)
    Team.objects.filter(pk=team.pk).update(key_limit=0)
    problem(post(program, {"name": "ci"}), 409, "conflict")
    assert not Remembered.objects.exists()
    Team.objects.filter(pk=team.pk).update(key_limit=1)
    assert post(program, {"name": "ci"}).status_code == 201


def test_the_scope_is_asked_for_before_anything_is_told_again(manager: Manager, ada: User) -> None:
    program = manager(ada)
    post(program, {"name": "ci"})
    ManagementKey.objects.update(scopes=[])
    problem(post(program, {"name": "ci"}), 403, "missing-scope")


def test_after_a_day_the_key_is_free_again(manager: Manager, ada: User) -> None:
    program = manager(ada)
    post(program, {"name": "ci"})
    Remembered.objects.update(reserved_at=timezone.now() - KEPT - timedelta(seconds=1))
    again = post(program, {"name": "ci-2"})
    assert again.status_code == 201
    assert again.json()["name"] == "ci-2"


def test_a_reservation_without_an_answer_is_in_progress_and_in_the_end_free(
    manager: Manager, ada: User
) -> None:
    program = manager(ada)
    post(program, {"name": "ci"})
    Remembered.objects.update(status=None, answer="")
    answer = post(program, {"name": "ci"})
    problem(answer, 409, "still-in-progress")
    assert answer["Retry-After"] == "1"
    ApiKey.objects.get().revoke(actor=None)  # As if the worker had died before it was made.
    Remembered.objects.update(reserved_at=timezone.now() - ABANDONED - timedelta(seconds=1))
    assert post(program, {"name": "ci"}).status_code == 201
    assert ApiKey.objects.count() == 1


def test_whoever_was_overtaken_does_nothing(
    manager: Manager, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = manager(ada)
    reserve = Remembered.objects.reserve

    def slowly(*asked: Any) -> Remembered:
        found = reserve(*asked)
        Remembered.objects.update(mark="another")  # Taken over, while this one slept.
        return found

    monkeypatch.setattr(Remembered.objects, "reserve", slowly, raising=False)
    problem(post(program, {"name": "ci"}), 409, "still-in-progress")
    assert not ApiKey.objects.exists()
    assert Remembered.objects.count() == 1


def test_an_answer_is_kept_once(manager: Manager, ada: User) -> None:
    found = Remembered.objects.reserve(manager(ada).key, "one", b"")
    found.keep(201, b"{}")
    with pytest.raises(Overtaken):
        found.keep(201, b"{}")


@pytest.mark.parametrize("key", ["", " ", "x" * 256, "a b", "schl\xfcssel"])
def test_what_is_no_idempotency_key_is_refused(manager: Manager, ada: User, key: str) -> None:
    problem(post(manager(ada), {"name": "ci"}, key), 400, "bad-request")
    assert not ApiKey.objects.exists()


def at_once(act: Callable[[int], Any], count: int = 4) -> list[Any]:
    barrier = Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        try:
            return act(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def test_of_many_at_once_one_is_done(transactional_db: None, manager: Manager, ada: User) -> None:
    program = manager(ada)
    answers = at_once(lambda _: post(Program(program.token), {"name": "ci"}))
    assert ApiKey.objects.count() == 1
    shown = [one.json()["key"] for one in answers if one.status_code == 201]
    assert len([key for key in shown if key]) == 1
    for answer in answers:
        if answer.status_code != 201:
            problem(answer, 409, "still-in-progress")


def test_a_key_is_reserved_by_one_of_many(
    transactional_db: None, manager: Manager, ada: User
) -> None:
    key = manager(ada).key

    def reserve(_: int) -> bool:
        try:
            return Remembered.objects.reserve(key, "one", b"").status is None
        except InProgress:
            return False

    assert sum(at_once(reserve)) == 1
