"""Keys that an admin manages: a program can do no more than the owner of its management key could
in the portal."""

from collections.abc import Callable

import pytest

from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import disable, set_managed
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, User
from tests.support.api_client import NewApiClient, assert_problem
from tests.support.cases import case, own_case

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]
NARROW = {"models": ["public/*"], "endpoints": "chat", "networks": []}


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    return issue(bob, actor=bob)[0]


def test_members_program_cannot_enable_a_key_disabled_by_an_admin(
    new_api_client: NewApiClient, ada: User, bob: User, key: ApiKey
) -> None:
    hers, his = new_api_client(ada, scopes=[Scope.KEYS_WRITE]), new_api_client(bob, "bobs")
    path = f"keys/{key.public_id}"
    disabled = hers.post(f"{path}/disable").json()
    assert (disabled["state"], disabled["disabled_by"]) == ("disabled", "admin")
    assert disabled["is_managed"]
    # To disable it once more makes it no more theirs.
    assert his.post(f"{path}/disable").json()["disabled_by"] == "admin"
    refusal = assert_problem(his.post(f"{path}/enable"), 403, "weak-role")
    assert "An admin manages this key" in refusal["detail"]
    enabled = hers.post(f"{path}/enable").json()
    assert (enabled["state"], enabled["is_managed"]) == ("active", True)
    assert hers.patch(path, {"is_managed": False}).json()["is_managed"] is False
    assert his.post(f"{path}/disable").json()["disabled_by"] == "owner"
    assert his.post(f"{path}/enable").json()["state"] == "active"


def test_program_acts_with_the_current_role_of_its_owner(
    new_api_client: NewApiClient, ada: User, key: ApiKey
) -> None:
    disable(key, actor=None)
    program, path = new_api_client(ada), f"keys/{key.public_id}"
    assert program.patch(path, {"owner": "ada"}).status_code == 200
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    assert_problem(program.post(f"{path}/enable"), 403, "weak-role")
    assert_problem(program.patch(path, {"is_managed": False}), 403, "weak-role")
    Membership.objects.filter(user=ada).update(role=Role.ADMIN)
    assert program.post(f"{path}/enable").json()["state"] == "active"


def test_key_narrowed_by_an_admins_program_becomes_managed(
    new_api_client: NewApiClient, ada: User, bob: User, key: ApiKey
) -> None:
    cases: list[dict[str, object]] = [
        {"permissions": NARROW},
        {"limits": {"tokens_per_day": 5}},
        {"expires_at": "2099-01-31T18:00:00Z"},
    ]
    for change in cases:
        with own_case(change):
            hers, his, path = (
                new_api_client(ada),
                new_api_client(bob, "bobs"),
                f"keys/{key.public_id}",
            )
            assert his.get(path).json()["is_managed"] is False
            assert hers.patch(path, change).json()["is_managed"] is True
            assert his.get("keys").json()["data"][0]["is_managed"] is True
            row = AuditEvent.objects.for_key(key.public_id).get(action=Action.KEY_MANAGED)
            assert row.actor == "ada"
            assert row.via
            # It may be left to its owner in the same request.
            other = {"limits": {"requests_per_day": 5}, "is_managed": False}
            assert hers.patch(path, other).json()["is_managed"] is False


def test_members_program_edits_a_managed_key_all_or_nothing(
    new_api_client: NewApiClient, alice: User, ada: User, bob: User, key: ApiKey
) -> None:
    cases: list[dict[str, object]] = [
        {"permissions": NARROW},
        {"limits": {"tokens_per_day": 5}},
        {"expires_at": "2099-01-31T18:00:00Z"},
        {"owner": "alice"},
        {"is_managed": False},
        {"is_managed": True},
    ]
    set_managed(key, True, actor=ada)
    his, path = new_api_client(bob), f"keys/{key.public_id}"
    before = his.get(path).json()
    for change in cases:
        with case(change):
            assert_problem(his.patch(path, {"name": "ci"} | change), 403, "weak-role")
            assert his.get(path).json() == before
    assert his.patch(path, {"name": "ci", "tags": ["x"]}).json()["name"] == "ci"
    # What it repeats as it is, is no change.
    same = {name: before[name] for name in ("permissions", "limits", "expires_at")}
    assert his.patch(path, same).status_code == 200
    assert his.post(f"{path}/rotate", {"grace": "now"}).status_code == 200
    assert his.delete(path).status_code == 204


def test_members_program_cannot_set_managed(
    new_api_client: NewApiClient, bob: User, key: ApiKey
) -> None:
    assert_problem(
        new_api_client(bob).patch(f"keys/{key.public_id}", {"is_managed": True}), 403, "weak-role"
    )
    assert not ApiKey.objects.get().is_managed
