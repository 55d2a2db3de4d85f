"""Two concurrent actions on one key, by pages or by programs.

Each gets a response as if the other had come before or after, and the key is in the state of one of
them. `keys/test_change_races.py` tests the actions themselves; this tests whole requests.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import NamedTuple, cast

import pytest
from django.test import Client

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.status import State, state_of
from keyportal.teams.models import Membership, Role, Team, User
from tests.conftest import make_person
from tests.support.api_client import ApiClient, NewApiClient
from tests.support.concurrency import run_concurrently

pytestmark = pytest.mark.django_db(transaction=True)
Issue = Callable[..., tuple[ApiKey, str]]
ROUNDS = 2
KEY = re.compile(r"sk-kp-[0-9A-Za-z]{46}")
DONE, REFUSED, GONE, OUT = "done", "refused", "gone", "out"
OUTCOMES = {
    **dict.fromkeys((200, 204, 302), DONE),
    **dict.fromkeys((409, 422), REFUSED),
    404: GONE,
    # 400: the session ended during the request.
    **dict.fromkeys((400, 401, 403), OUT),
}


class Result(NamedTuple):
    outcome: str
    key_strings: set[str]
    """Those in the response."""


class PortalUser:
    """A person who is signed in to the portal."""

    def __init__(self, user: User, _: NewApiClient) -> None:
        self._client = Client()
        self._client.force_login(user)

    def _send(self, key: ApiKey, path: str, **fields: object) -> Result:
        url = f"/teams/{key.team.slug}/keys/{key.public_id}/{path}/"
        response = self._client.post(url, fields)
        if response.headers.get("Location", "").startswith("/accounts/login/"):
            return Result(OUT, set())  # The session ended before the request.
        return Result(OUTCOMES[response.status_code], {*KEY.findall(response.content.decode())})

    def rotate(self, key: ApiKey, grace: str) -> Result:
        return self._send(key, "rotate", grace=grace)

    def delete(self, key: ApiKey) -> Result:
        return self._send(key, "delete")

    def hand_over(self, key: ApiKey, to: User) -> Result:
        return self._send(key, "hand-over", owner=to.pk)


class ApiUser:
    """A program with the management key of a person."""

    def __init__(self, user: User, new_api_client: NewApiClient) -> None:
        self._program: ApiClient = new_api_client(user, f"of {user} {id(self)}")

    def _send(self, method: str, key: ApiKey, path: str = "", body: object = None) -> Result:
        response = self._program.request(method, f"keys/{key.public_id}{path}", body)
        return Result(OUTCOMES[response.status_code], {*KEY.findall(response.content.decode())})

    def rotate(self, key: ApiKey, grace: str) -> Result:
        return self._send("POST", key, "/rotate", {"grace": grace})

    def delete(self, key: ApiKey) -> Result:
        return self._send("DELETE", key)

    def hand_over(self, key: ApiKey, to: User) -> Result:
        return self._send("PATCH", key, body={"owner": to.get_username()})


Actor = type[PortalUser] | type[ApiUser]
ACTORS: tuple[Actor, ...] = (PortalUser, ApiUser)


def run_together(*actions: Callable[[], object]) -> list[Result]:
    return cast("list[Result]", run_concurrently(*actions))


def require_all_accounted_for(key: ApiKey, old: str, results: Iterable[Result]) -> set[str]:
    """Each key string that was ever shown has a secret or a tombstone, never both.

    Returns those that have a secret.
    """
    key_strings = {old}.union(*(one.key_strings for one in results))
    digests = {keystring.digest(text.encode()): text for text in key_strings}
    kept = {bytes(one.digest) for one in Secret.objects.filter(key=key.pk)}
    deleted_digests = {
        bytes(one.digest) for one in Tombstone.objects.filter(public_id=key.public_id)
    }
    assert kept | deleted_digests == digests.keys()
    assert not kept & deleted_digests
    return {digests[one] for one in kept}


def test_concurrent_rotations_leave_valid_secrets(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Issue
) -> None:
    one, two = PortalUser(bob, new_api_client), ApiUser(ada, new_api_client)
    for number in range(ROUNDS):
        key, old = issue(bob, f"overlap {number}")
        results = run_together(partial(one.rotate, key, "1h"), partial(two.rotate, key, "1h"))
        assert sorted(each.outcome for each in results) == [DONE, REFUSED]
        assert sorted(len(each.key_strings) for each in results) == [0, 1]
        assert len(require_all_accounted_for(key, old, results)) == 2
        assert (
            AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_ROTATED).count() == 1
        )

        key, old = issue(bob, f"at once {number}")
        results = run_together(partial(one.rotate, key, "now"), partial(two.rotate, key, "now"))
        assert {(each.outcome, len(each.key_strings)) for each in results} == {(DONE, 1)}
        (kept,) = require_all_accounted_for(key, old, results)
        assert kept != old


@pytest.mark.parametrize("actors", [ACTORS, ACTORS[::-1]])
def test_key_deleted_during_a_rotation_leaves_no_secret(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Issue, actors: tuple[Actor, Actor]
) -> None:
    """Also not the one that was shown a moment before."""
    rotating, deleting = actors[0](bob, new_api_client), actors[1](ada, new_api_client)
    for number, grace in product(range(ROUNDS), ("now", "1h")):
        key, old = issue(bob, f"key {number}")
        rotated, deleted = run_together(
            partial(rotating.rotate, key, grace), partial(deleting.delete, key)
        )
        assert deleted == (DONE, set())
        assert (rotated.outcome, len(rotated.key_strings)) in {(DONE, 1), (GONE, 0)}
        assert not ApiKey.objects.filter(pk=key.pk).exists()
        assert require_all_accounted_for(key, old, [rotated]) == set()


def leave(root: Client, user: User, team: Team) -> None:
    """End the membership, as an operator does in Django's admin."""
    membership = Membership.objects.get(user=user, team=team)
    response = root.post(f"/admin/teams/membership/{membership.pk}/delete/", {"post": "yes"})
    assert response.status_code == 302


@pytest.mark.parametrize(
    ("actor", "giver", "leaver"),
    [
        (PortalUser, "ada", "bob"),
        (ApiUser, "ada", "bob"),
        (PortalUser, "bob", "bob"),
        (ApiUser, "ada", "alice"),
    ],
)
def test_key_handed_over_while_a_member_leaves_has_one_owner(
    new_api_client: NewApiClient,
    alice: User,
    ada: User,
    bob: User,
    team: Team,
    issue: Issue,
    actor: Actor,
    giver: str,
    leaver: str,
) -> None:
    """From bob to alice. It works unless its owner left, before the hand-over or after it."""
    root = Client()
    root.force_login(User.objects.create_superuser("root", "root@example.com"))
    make_person("olga", team, Role.OWNER)  # So that alice is not the last one.
    people = {"alice": alice, "ada": ada, "bob": bob}
    giving = actor(people[giver], new_api_client)
    for number in range(ROUNDS):
        key, _ = issue(bob, f"key {number}")
        result, _ = run_together(
            partial(giving.hand_over, key, alice), partial(leave, root, people[leaver], team)
        )
        found = ApiKey.objects.for_display().select_related("team").get(pk=key.pk)
        # A person who is removed after the hand-over, during the response, gets 400.
        assert result.outcome in {DONE, OUT} if found.owner == alice else result.outcome != DONE
        allowed = {("ada", "bob"): {DONE}, ("ada", "alice"): {DONE, REFUSED}}
        assert result.outcome in allowed.get((giver, leaver), {DONE, OUT, GONE})
        is_working = state_of(found) is State.ACTIVE
        assert is_working is (found.disabled_by == "")
        assert found.owner != people[leaver] or not is_working
        assert is_working or people[leaver] in {bob, found.owner}
        rows = AuditEvent.objects.for_key(key.public_id).filter(action=Action.KEY_HANDED_OVER)
        assert rows.count() == (found.owner == alice)
        Membership.objects.create(user=people[leaver], team=team, role=Role.MEMBER)
