"""docs/people.md says who may do what, and the code agrees."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from keyportal.teams.access import creator_role, grantable_roles, may_change, may_end
from keyportal.teams.models import Membership, Role, Team
from tests.test_isolation import NEEDS

pytestmark = pytest.mark.any_database
PAGE = Path(__file__).parent.parent.parent / "docs/people.md"
OWN, OTHERS = SimpleNamespace(owner_id=1), SimpleNamespace(owner_id=2)


def member(role: Role) -> Membership:
    return Membership(team=Team(), user_id=1, role=role)


def opens(*pages: str) -> Callable[[Role], bool]:
    return lambda role: all(member(role).is_at_least(NEEDS[page]) for page in pages)


def gives(*roles: Role) -> Callable[[Role], bool]:
    return lambda role: {*roles} <= {*grantable_roles(role)}


ACTS: dict[str, Callable[[Role], bool]] = {
    "See the team's keys, models, members and usage": opens(
        "keys:list", "catalog:models", "people:members", "usage:usage"
    ),
    "Disable and delete their own keys": lambda role: may_end(member(role), OWN),
    "Leave the team": opens("people:leave"),
    "Create keys, as far as the policy allows": lambda role: member(role).is_at_least(
        creator_role(Team())
    ),
    "Change, rotate and hand over their own keys": lambda role: may_change(member(role), OWN),
    "Change and delete all keys of the team": lambda role: may_change(member(role), OTHERS),
    "Change policy, templates and limits of new keys": opens("keys:templates", "keys:team_limits"),
    "Rename the team, create service accounts and keys for them": opens(
        "teams:service_account_create"
    ),
    "Create management keys and service accounts, read the audit": opens(
        "management_keys:create", "teams:service_account_create", "audit:list"
    ),
    "Invite viewers, members and admins, and change and remove them": gives(
        Role.VIEWER, Role.MEMBER, Role.ADMIN
    ),
    "Invite, make, change and remove owners": gives(Role.OWNER),
    "Switch off and delete the team": opens("teams:off", "teams:delete"),
}


def documented() -> dict[str, list[str]]:
    """The cells of each row of the table, by its first cell."""
    section = PAGE.read_text().partition("## Who may do what")[2].partition("\n## ")[0]
    without_links = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", section)
    rows = [line.strip("| ").split(" | ") for line in without_links.splitlines() if "|" in line]
    header, _, *body = rows
    assert header == [role.label for role in Role]
    return {row[0]: row[1:] for row in body}


def test_table_agrees_with_the_code() -> None:
    decided = {act: ["yes" if may(role) else "no" for role in Role] for act, may in ACTS.items()}
    assert documented() == decided
