"""Two who do different things to one key at the same moment, by its pages or by programs.

Each is answered as if the other had come before or after, and the key is as one of the two leaves
it. That the acts keep apart is tested in `keys/test_change_races.py`; this is about all that is
around them, from the request to the answer.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import combinations_with_replacement, product
from typing import NamedTuple, cast

import pytest
from django.test import Client

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.status import State, state_of
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.api_client import ApiClient, NewApiClient
from tests.support.concurrency import run_concurrently

pytestmark = pytest.mark.django_db(transaction=True)
Issue = Callable[..., tuple[ApiKey, str]]
ROUNDS = 3
KEY = re.compile(r"sk-kp-[0-9A-Za-z]{46}")
DONE, REFUSED, GONE, OUT = "done", "refused", "gone", "out"
OUTCOMES = {
    **dict.fromkeys((200, 204, 302), DONE),
    **dict.fromkeys((409, 422), REFUSED),
    404: GONE,
    **dict.fromkeys((401, 403), OUT),
}


class Told(NamedTuple):
    outcome: str
    shown: set[str]
    """The keys that stand in the answer."""


class Page:
    """Where somebody is signed in and fills in forms."""

    def __init__(self, user: User, _: NewApiClient) -> None:
        self._client = Client()
        self._client.force_login(user)

    def _ask(self, key: ApiKey, what: str, **fields: object) -> Told:
        path = f"/teams/{key.team.slug}/keys/{key.public_id}/{what}/"
        answer = self._client.post(path, fields)
        return Told(OUTCOMES[answer.status_code], {*KEY.findall(answer.content.decode())})

    def rotate(self, key: ApiKey, grace: str) -> Told:
        return self._ask(key, "rotate", grace=grace)

    def delete(self, key: ApiKey) -> Told:
        return self._ask(key, "delete")

    def hand_over(self, key: ApiKey, to: User) -> Told:
        return self._ask(key, "hand-over", owner=to.pk)


class Machine:
    """A program with somebody's management key."""

    def __init__(self, user: User, new_api_client: NewApiClient) -> None:
        self._program: ApiClient = new_api_client(user, f"of {user} {id(self)}")

    def _ask(self, method: str, key: ApiKey, what: str = "", body: object = None) -> Told:
        answer = self._program.request(method, f"keys/{key.public_id}{what}", body)
        return Told(OUTCOMES[answer.status_code], {*KEY.findall(answer.content.decode())})

    def rotate(self, key: ApiKey, grace: str) -> Told:
        return self._ask("POST", key, "/rotate", {"grace": grace})

    def delete(self, key: ApiKey) -> Told:
        return self._ask("DELETE", key)

    def hand_over(self, key: ApiKey, to: User) -> Told:
        return self._ask("PATCH", key, body={"owner": to.get_username()})


Door = type[Page] | type[Machine]
DOORS: tuple[Door, ...] = (Page, Machine)


def together(*acts: Callable[[], object]) -> list[Told]:
    return cast("list[Told]", run_concurrently(*acts))


def require_all_accounted_for(key: ApiKey, old: str, told: Iterable[Told]) -> set[str]:
    """Each key that was ever shown is kept, or buried, and never both. Returns the kept."""
    shown = {old}.union(*(one.shown for one in told))
    digests = {keystring.digest(text.encode()): text for text in shown}
    kept = {bytes(one.digest) for one in Secret.objects.filter(key=key.pk)}
    buried = {bytes(one.digest) for one in Tombstone.objects.filter(public_id=key.public_id)}
    assert kept | buried == digests.keys()
    assert not kept & buried
    return {digests[one] for one in kept}


@pytest.mark.parametrize("doors", [*combinations_with_replacement(DOORS, 2)])
def test_concurrent_rotations_leave_valid_secrets(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Issue, doors: tuple[Door, Door]
) -> None:
    one, two = (door(user, new_api_client) for door, user in zip(doors, (bob, ada), strict=True))
    for number in range(ROUNDS):
        key, old = issue(bob, f"overlap {number}")
        told = together(partial(one.rotate, key, "1h"), partial(two.rotate, key, "1h"))
        assert sorted(each.outcome for each in told) == [DONE, REFUSED]
        assert sorted(len(each.shown) for each in told) == [0, 1]
        assert len(require_all_accounted_for(key, old, told)) == 2
        assert (
            AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_ROTATED).count() == 1
        )

        key, old = issue(bob, f"at once {number}")
        told = together(partial(one.rotate, key, "now"), partial(two.rotate, key, "now"))
        assert {(each.outcome, len(each.shown)) for each in told} == {(DONE, 1)}
        (kept,) = require_all_accounted_for(key, old, told)
        assert kept != old


@pytest.mark.parametrize("doors", [*product(DOORS, DOORS)])
def test_key_deleted_during_a_rotation_leaves_no_secret(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Issue, doors: tuple[Door, Door]
) -> None:
    """The one that was shown a moment before is buried as well."""
    rotating, deleting = doors[0](bob, new_api_client), doors[1](ada, new_api_client)
    for number, grace in product(range(ROUNDS), ("now", "1h")):
        key, old = issue(bob, f"key {number}")
        rotated, deleted = together(
            partial(rotating.rotate, key, grace), partial(deleting.delete, key)
        )
        assert deleted == (DONE, set())
        assert (rotated.outcome, len(rotated.shown)) in {(DONE, 1), (GONE, 0)}
        assert not ApiKey.objects.filter(pk=key.pk).exists()
        assert require_all_accounted_for(key, old, [rotated]) == set()


def leave(root: Client, who: User, team: Team) -> None:
    """As an operator lets somebody go, in Django's admin."""
    membership = Membership.objects.get(user=who, team=team)
    answer = root.post(f"/admin/teams/membership/{membership.pk}/delete/", {"post": "yes"})
    assert answer.status_code == 302


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(("giver", "leaver"), [("ada", "bob"), ("bob", "bob"), ("ada", "alice")])
def test_key_handed_over_while_a_member_leaves_has_one_owner(
    new_api_client: NewApiClient,
    alice: User,
    ada: User,
    bob: User,
    team: Team,
    issue: Issue,
    door: Door,
    giver: str,
    leaver: str,
) -> None:
    """From bob to alice. It works if and only if whoever has it then is still there."""
    root = Client()
    root.force_login(User.objects.create_superuser("root", "root@example.com"))
    people = {"alice": alice, "ada": ada, "bob": bob}
    giving = door(people[giver], new_api_client)
    for number in range(ROUNDS):
        key, _ = issue(bob, f"key {number}")
        told, _ = together(
            partial(giving.hand_over, key, alice), partial(leave, root, people[leaver], team)
        )
        found = ApiKey.objects.for_display().select_related("team").get(pk=key.pk)
        assert found.owner == (alice if told.outcome == DONE else bob)
        allowed = {("ada", "bob"): {DONE}, ("ada", "alice"): {DONE, REFUSED}}
        assert told.outcome in allowed.get((giver, leaver), {DONE, OUT, GONE})
        is_working = state_of(found) is State.ACTIVE
        assert is_working == (found.owner != people[leaver])
        rows = AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_HANDED_OVER)
        assert rows.count() == (told.outcome == DONE)
        Membership.objects.create(user=people[leaver], team=team, role=Role.MEMBER)
