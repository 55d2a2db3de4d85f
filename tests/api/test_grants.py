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
