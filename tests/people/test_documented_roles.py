"""docs/people.md says who may do what, and the code agrees.

Every page of a team, operation of the management API, page of operators and command belongs to a
row, so that none is left out.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from keyportal.api.urls import OPERATIONS
from keyportal.teams.access import creator_role, grantable_roles, may_change, may_end
from keyportal.teams.models import Membership, Role, Team
from tests.test_docs import our_commands
from tests.test_isolation import NEEDS, OPERATOR_URLS

pytestmark = pytest.mark.any_database
PAGE = Path(__file__).parent.parent.parent / "docs/people.md"
OWN, OTHERS = SimpleNamespace(owner_id=1), SimpleNamespace(owner_id=2)
Judge = Callable[[Role], bool]
API = {f"{operation.method} {operation.path}": operation for operation in OPERATIONS}


class Act(NamedTuple):
    pages: str = ""
    """Names of views of a team."""
    operations: tuple[str, ...] = ()
    """Of the management API."""
    judge: Judge | None = None
    """What decides inside the pages and operations, which then may let weaker roles in."""


def member(role: Role) -> Membership:
    return Membership(team=Team(), user_id=1, role=role)


def is_at_least(needed: Role) -> Judge:
    return lambda role: member(role).is_at_least(needed)


def gives(*roles: Role) -> Judge:
    return lambda role: {*roles} <= {*grantable_roles(role)}


SERVER_VIEWS = (
    "servers server server_add server_edit server_off server_on server_delete server_test "
    "server_discover model_add route_delete"
)
ACTS: dict[str, Act] = {
    "See the team's keys, models, members and usage": Act(
        "keys:list keys:guide keys:key keys:receipt leaks:team catalog:models people:members "
        "teams:service_accounts usage:usage usage:usage_csv usage:calls usage:call",
        (
            *("GET teams", "GET teams/{slug}", "GET members", "GET members/{username}"),
            *("GET service-accounts", "GET service-accounts/{account}"),
            *("GET keys", "GET keys/{id}", "GET models", "GET usage"),
        ),
    ),
    "Disable and delete their own keys": Act(
        "keys:disable keys:delete",
        ("POST keys/{id}/disable", "DELETE keys/{id}"),
        lambda role: may_end(member(role), OWN),
    ),
    "Leave the team": Act("people:leave"),
    "Read the settings, the policy and the page Health": Act(
        "teams:general keys:policy keys:health"
    ),
    "Create keys, as far as the policy allows": Act(
        "keys:create",
        ("POST keys",),
        lambda role: member(role).is_at_least(creator_role(Team())),
    ),
    "Change, rotate and hand over their own keys": Act(
        "keys:permissions keys:edit keys:expiry keys:hand_over keys:enable keys:rotate "
        "keys:end_old keys:limits keys:bulk_delete keys:bulk_disable",
        (
            *("PATCH keys/{id}", "POST keys/{id}/rotate", "POST keys/{id}/end-old-secret"),
            "POST keys/{id}/enable",
        ),
        lambda role: may_change(member(role), OWN),
    ),
    "Change, manage and delete all keys of the team": Act(
        "keys:manage keys:unmanage keys:edit keys:delete",
        ("PATCH keys/{id}", "DELETE keys/{id}"),
        lambda role: may_change(member(role), OTHERS),
    ),
    "Change policy, templates and limits of new keys": Act(
        "keys:team_limits keys:templates keys:template_create keys:template_change "
        "keys:template_delete"
    ),
    "Rename the team": Act("teams:general", ("PATCH teams/{slug}",), is_at_least(Role.ADMIN)),
    "Create, change and delete service accounts, and create keys for them": Act(
        "teams:service_account_create teams:service_account_change teams:service_account_delete",
        (
            *("POST service-accounts", "PATCH service-accounts/{account}"),
            *("DELETE service-accounts/{account}", "POST keys"),
        ),
        is_at_least(NEEDS["teams:service_account_create"]),
    ),
    "Connect model servers of the team, where a setting allows it, and serve their models": Act(
        " ".join(f"team_servers:{view}" for view in SERVER_VIEWS.split()),
        (
            *("GET model-servers", "GET model-servers/{server}", "POST model-servers"),
            *("PATCH model-servers/{server}", "DELETE model-servers/{server}"),
            *("POST model-servers/{server}/switch-off", "POST model-servers/{server}/switch-on"),
        ),
    ),
    "Create and delete management keys": Act(
        "management_keys:list management_keys:create management_keys:delete"
    ),
    "Read the audit": Act("audit:list", ("GET audit",)),
    "See and end the running calls": Act("usage:running usage:end_call"),
    "Invite viewers, members and admins, and change and remove them": Act(
        "people:invite people:role people:remove people:resend people:revoke",
        (
            *("GET invitations", "POST invitations", "DELETE invitations/{invitation}"),
            *("PATCH members/{username}", "DELETE members/{username}"),
        ),
        gives(Role.VIEWER, Role.MEMBER, Role.ADMIN),
    ),
    "Invite, make, change and remove owners": Act(
        "people:invite people:role people:remove",
        ("POST invitations", "PATCH members/{username}", "DELETE members/{username}"),
        gives(Role.OWNER),
    ),
    "Change the slug": Act("teams:slug", ("PATCH teams/{slug}",), is_at_least(NEEDS["teams:slug"])),
    "Switch off and delete the team": Act(
        "teams:off teams:delete", ("POST teams/{slug}/switch-off", "DELETE teams/{slug}")
    ),
}
OPERATORS: dict[str, str] = {
    "Create a team, and list all": "home teams team_create",
    "Set a team's name, limits and number of keys, switch it off and on": "team team_off team_on",
    "Change a team without being in it: its policy, members, service accounts, keys, management "
    "keys; delete it": "",
    "Make an account for somebody, or a link that signs them in": "",
    "Deactivate and activate people, reset second factors, make operators": "people person "
    "person_deactivate person_activate factor_reset operator_grant operator_revoke",
    "Set up identity providers": "sign_in provider provider_add provider_edit provider_off "
    "provider_on provider_delete provider_test",
    "Connect, test, switch off and delete model servers, and serve their models": SERVER_VIEWS,
    "Describe models, choose their teams, mark their end, and give them aliases": "models model "
    "alias_add alias_delete",
    "Read the settings in force and what is wrong": "settings health",
    "Encrypt the credentials of servers with a new key": "",
    "Disable keys that leaked, and have reminders written": "",
}
"""The names of the views under /operators/ that belong to each row."""


def tables() -> Iterator[list[list[str]]]:
    """The rows of each table in the section, by cells."""
    section = PAGE.read_text().partition("## Who may do what")[2].partition("\n## ")[0]
    without_links = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", section)
    for table in re.findall(r"(?:^\|.*\n)+", without_links, re.MULTILINE):
        yield [line.strip("| ").split(" | ") for line in table.splitlines()]


IN_TEAM, FOR_ALL = tables()


def lowest(decides: Judge) -> Role:
    return next(role for role in Role if decides(role))


def test_roles_agree_with_the_code() -> None:
    header, _, *rows = IN_TEAM
    assert header == [*(role.label for role in Role), "Program"]
    documented = {row[0]: row[1:-1] for row in rows}
    assert documented.keys() == ACTS.keys()
    for name, act in ACTS.items():
        lets_in = [NEEDS[page] for page in act.pages.split()]
        lets_in += [API[operation].role for operation in act.operations]
        if act.judge is None:
            [needed] = {*lets_in}  # All need the same role.
        else:
            needed = lowest(act.judge)
            assert all(role.rank <= needed.rank for role in lets_in), name
            assert [act.judge(role) for role in Role] == [role.rank >= needed.rank for role in Role]
        cells = ["yes" if role.rank >= needed.rank else "no" for role in Role]
        assert documented[name] == cells, name


def test_scopes_of_programs_agree_with_the_code() -> None:
    for name, *_, documented in IN_TEAM[2:]:
        scopes = set()
        for operation in (API[each] for each in ACTS[name].operations):
            assert operation.scope
            scopes |= {operation.scope.value, *(scope.value for scope in operation.extra_scopes)}
        assert set(re.findall(r"`([a-z:-]+)`", documented)) == scopes, name


def test_every_page_and_operation_of_a_team_has_a_row() -> None:
    pages = {page for act in ACTS.values() for page in act.pages.split()}
    assert pages == NEEDS.keys()
    operations = {operation for act in ACTS.values() for operation in act.operations}
    assert operations == API.keys() - {"GET self"}


def test_every_page_and_command_of_operators_has_a_row() -> None:
    _, _, *rows = FOR_ALL
    assert [row[0] for row in rows] == [*OPERATORS]
    views = {f"operators:{view}" for text in OPERATORS.values() for view in text.split()}
    assert views == {name for name, _ in OPERATOR_URLS}
    commands = set()
    for name, page, command in rows:
        assert (page == "—") == (not OPERATORS[name]), name
        commands |= set(re.findall(r"`(\w+)`", command))
    assert commands == {*our_commands()}
