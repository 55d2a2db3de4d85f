"""A program gives back no more of what an admin took from a key than its owner could."""

from collections.abc import Callable

import pytest

from keyportal.api.scopes import Scope
from keyportal.keys.changes import disable
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, User
from tests.api.programs import Manager, problem

Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    return issue(bob, actor=bob)[0]


def test_a_members_program_does_not_enable_what_an_admins_program_disabled(
    manager: Manager, ada: User, bob: User, key: ApiKey
) -> None:
    hers, his = manager(ada, scopes=[Scope.KEYS_WRITE]), manager(bob, "bobs")
    path = f"keys/{key.public_id}"
    assert hers.post(f"{path}/disable").json()["state"] == "disabled"
    # To disable it once more makes it no more theirs.
    assert his.post(f"{path}/disable").json()["state"] == "disabled"
    told = problem(his.post(f"{path}/enable"), 403, "weak-role")
    assert "To enable it, ask an admin." in told["detail"]
    assert hers.post(f"{path}/enable").json()["state"] == "active"
    assert his.post(f"{path}/disable").json()["state"] == "disabled"
    assert his.post(f"{path}/enable").json()["state"] == "active"


def test_it_acts_with_the_role_that_its_owner_has_now(
    manager: Manager, ada: User, key: ApiKey
) -> None:
    disable(key, actor=None)
    program, path = manager(ada), f"keys/{key.public_id}"
    assert program.patch(path, {"owner": "ada"}).status_code == 200
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    problem(program.post(f"{path}/enable"), 403, "weak-role")
    Membership.objects.filter(user=ada).update(role=Role.ADMIN)
    assert program.post(f"{path}/enable").json()["state"] == "active"


GRANTED = ("granted_permissions", "granted_limits", "granted_expires_at", "is_held")


def test_what_an_admin_has_set_is_told_beside_what_the_key_has(
    manager: Manager, ada: User, bob: User, key: ApiKey
) -> None:
    hers, his, path = manager(ada), manager(bob, "bobs"), f"keys/{key.public_id}"
    told = his.get(path).json()
    assert [told[name] for name in GRANTED] == [None, None, None, False]
    most = {"permissions": NARROW, "expires_at": "2099-01-31T18:00:00Z"}
    assert hers.patch(path, most | {"limits": {"tokens_per_day": 5}}).status_code == 200
    assert hers.post(f"{path}/disable").status_code == 200
    less = {"permissions": {"endpoints": "read"}, "expires_at": "2099-01-01T00:00:00Z"}
    changed = his.patch(path, less | {"limits": {"tokens_per_day": 4}}).json()
    (listed,) = his.get("keys").json()["data"]
    for told in (changed, his.get(path).json(), listed):
        assert told["permissions"] == NARROW | {"endpoints": "read"}
        assert told["granted_permissions"] == NARROW
        assert told["limits"]["tokens_per_day"] == 4
        assert told["granted_limits"] == told["limits"] | {"tokens_per_day": 5}
        assert told["expires_at"] == "2099-01-01T00:00:00Z"
        assert told["granted_expires_at"] == "2099-01-31T18:00:00Z"
        assert told["is_held"]
        assert told["disabled_by"] == "admin"
    enabled = hers.post(f"{path}/enable").json()
    assert (enabled["is_held"], enabled["disabled_by"]) == (False, None)


NARROW = {"models": ["public/*"], "endpoints": "chat", "networks": []}


def test_permissions_that_an_admins_program_repeats_are_the_most_from_then_on(
    manager: Manager, ada: User, bob: User, key: ApiKey
) -> None:
    hers, his, path = manager(ada), manager(bob, "bobs"), f"keys/{key.public_id}"
    assert his.patch(path, {"permissions": NARROW}).status_code == 200
    # What says nothing of them sets nothing.
    assert hers.patch(path, {"name": "ci"}).status_code == 200
    assert his.patch(path, {"permissions": NARROW | {"endpoints": "all"}}).status_code == 200
    assert his.patch(path, {"permissions": NARROW}).status_code == 200
    assert hers.patch(path, {"permissions": NARROW}).json()["permissions"] == NARROW
    told = problem(his.patch(path, {"permissions": {"endpoints": "all"}}), 403, "weak-role")
    assert "to widen it, ask an admin" in told["detail"]
    assert his.patch(path, {"permissions": {"endpoints": "read"}}).status_code == 200


def test_a_narrow_key_that_an_admins_program_hands_over_stays_narrow(
    manager: Manager, ada: User, bob: User
) -> None:
    hers, his = manager(ada), manager(bob, "bobs")
    path = f"keys/{hers.post('keys', {'name': 'ci', 'permissions': NARROW}).json()['id']}"
    assert hers.patch(path, {"owner": "bob"}).status_code == 200
    problem(his.patch(path, {"permissions": {"models": []}}), 403, "weak-role")
    assert his.patch(path, {"permissions": {"models": ["public/x"]}}).status_code == 200


def test_a_members_program_puts_off_no_end_that_an_admin_set(
    manager: Manager, ada: User, bob: User, key: ApiKey
) -> None:
    hers, his, path = manager(ada), manager(bob, "bobs"), f"keys/{key.public_id}"
    end = {"expires_at": "2099-01-31T18:00:00Z"}
    assert hers.patch(path, end).status_code == 200
    assert his.patch(path, {"expires_at": "2099-01-01T00:00:00Z"}).status_code == 200
    for later in ("2099-01-31T18:00:01Z", None):
        told = problem(his.patch(path, {"name": "ci", "expires_at": later}), 403, "weak-role")
        assert "ends at 2099-01-31 18:00 UTC at the latest" in told["detail"]
    assert his.patch(path, end).json()["name"] == "test-key"
    assert hers.patch(path, {"expires_at": None}).status_code == 200
    assert his.patch(path, {"expires_at": "2099-12-31T00:00:00Z"}).status_code == 200
    assert his.patch(path, {"expires_at": None}).json()["expires_at"] is None
