"""A team's own model servers through the management API."""

from typing import Any

import pytest
from pytest_django import Settings

from keyportal.api.scopes import Scope
from keyportal.audit.models import AuditEvent
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.catalog.servers.changes import MAX_TEAM_SERVERS
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.teams.models import Team, User
from tests.support.api_client import NewApiClient, assert_problem

pytestmark = pytest.mark.any_database
PATH = "model-servers"
SECRET, HEADER = "sk-the-accounts-own-credential", "a-secret-of-theirs"
BODY: dict[str, Any] = {"name": "openai", "base_url": "https://api.example.com"}


@pytest.fixture(autouse=True)
def public(settings: Settings) -> None:
    settings.TEAM_SERVERS = AllowedServers(is_public=True)


@pytest.fixture
def theirs(other_team: Team) -> Upstream:
    base_url = "https://api.example.com/v1"
    return Upstream.objects.create(name="theirs", base_url=base_url, team=other_team)


def test_add_read_list_change_and_delete(
    new_api_client: NewApiClient, ada: User, team: Team, theirs: Upstream
) -> None:
    Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    program = new_api_client(ada)
    sent = {"credential": SECRET, "headers": {"X-Org": HEADER, "X-B": "b"}, "read_timeout": 60}
    response = program.post(PATH, BODY | sent)
    assert response.status_code == 201, response.content
    server = response.json()
    upstream = Upstream.objects.get(team=team)
    assert (server["id"], server["base_url"]) == (upstream.pk, "https://api.example.com/v1")
    assert (server["has_credential"], server["has_headers"]) == (True, True)
    assert (server["read_timeout"], server["connect_timeout"]) == (60, 5)
    assert upstream.credential == SECRET
    assert upstream.headers == f"X-Org: {HEADER}\nX-B: b"
    one = f"{PATH}/{upstream.pk}"
    assert program.get(PATH).json() == {"data": [server], "next_cursor": None}
    assert program.get(one).json() == server
    changed = program.patch(one, {"name": "mine", "takes_stream_options": False, "headers": {}})
    expected = server | {"name": "mine", "takes_stream_options": False, "has_headers": False}
    assert changed.json() == expected
    upstream.refresh_from_db()
    assert (upstream.credential, upstream.sends_keepalive) == (SECRET, True)
    assert not program.patch(one, {"credential": None}).json()["has_credential"]
    events = AuditEvent.objects.for_team(team).filter(target__startswith="Model server ")
    assert {*events.values_list("via", flat=True)} == {f"management key {program.key}"}
    told = [response.content.decode(), changed.content.decode(), *events.values_list("target")]
    assert SECRET not in str(told)
    assert HEADER not in str(told)
    model = ServedModel.objects.create(name=f"{team.slug}/x", team=team)
    Route.objects.create(model=model, upstream=upstream, upstream_model="x")
    assert program.delete(one).status_code == 204
    assert_problem(program.get(one), 404, "not-found")
    assert not ServedModel.objects.exists()


def test_rules_are_those_of_the_page(new_api_client: NewApiClient, ada: User) -> None:
    """Attack: a program adds what the page refuses."""
    program = new_api_client(ada)
    for sent, pointer in (
        ({"base_url": "http://api.example.com"}, "/base_url"),
        ({"base_url": "https://127.0.0.1/v1"}, "/base_url"),
        ({"base_url": "https://2852039166/v1"}, "/base_url"),
        ({"base_url": "https://NAME.openai.azure.com/openai/v1"}, "/base_url"),
        ({"name": "x\ny"}, "/name"),
        ({"credential": "a\r\nX-Evil: 1"}, "/credential"),
        ({"headers": {"X-A": "1\r\nX-Evil: 1"}}, "/headers/..."),
        ({"headers": {"Host": "x"}}, "/headers"),
        ({"read_timeout": 0}, "/read_timeout"),
        ({"ca_file": "/etc/passwd"}, "/ca_file"),
        ({"is_held": False}, "/is_held"),
        ({"team": 1}, "/team"),
    ):
        problem = assert_problem(program.post(PATH, BODY | sent), 422, "invalid")
        assert [error["pointer"] for error in problem["errors"]] == [pointer], sent
    assert not Upstream.objects.exists()
    assert program.post(PATH, BODY | {"credential": SECRET}).status_code == 201
    assert_problem(program.post(PATH, BODY), 409, "conflict")
    one = f"{PATH}/{Upstream.objects.get().pk}"
    for sent in ({"base_url": "https://evil.example.com"}, {"base_url": "https://10.0.0.7"}):
        problem = assert_problem(program.patch(one, sent), 422, "invalid")
        assert SECRET not in str(problem)
    Upstream.objects.update(base_url="https://api.openai.com/v1")
    sent = {"base_url": "https://api.example.com/v1", "credential": "another"}
    assert program.patch(one, sent).status_code == 200
    assert Upstream.objects.get().credential == "another"


def test_a_team_has_only_so_many(new_api_client: NewApiClient, ada: User, team: Team) -> None:
    Upstream.objects.bulk_create(
        Upstream(name=str(number), base_url="https://x.example.com/v1", team=team)
        for number in range(MAX_TEAM_SERVERS)
    )
    assert_problem(new_api_client(ada).post(PATH, BODY), 409, "conflict")


def test_servers_of_others_are_not_found(
    new_api_client: NewApiClient, ada: User, theirs: Upstream
) -> None:
    gpu = Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    program = new_api_client(ada)
    before = [*Upstream.objects.order_by("pk").values()]
    for other in (theirs.pk, gpu.pk, 10**17):
        one = f"{PATH}/{other}"
        for answer in (
            program.get(one),
            program.patch(one, {"name": "stolen"}),
            program.post(f"{one}/switch-off"),
            program.post(f"{one}/switch-on"),
            program.delete(one),
        ):
            assert_problem(answer, 404, "not-found")
    assert [*Upstream.objects.order_by("pk").values()] == before


def test_program_switches_on_only_what_the_team_switched_off(
    new_api_client: NewApiClient, ada: User, team: Team, settings: Settings
) -> None:
    upstream = Upstream.objects.create(
        name="openai", base_url="https://api.example.com/v1", team=team
    )
    program, one = new_api_client(ada), f"{PATH}/{upstream.pk}"
    assert not program.post(f"{one}/switch-off").json()["is_active"]
    assert program.post(f"{one}/switch-on").json()["is_active"]
    upstream.switch(is_active=False, by_team=False)
    assert program.post(f"{one}/switch-off").json()["is_held"]
    problem = assert_problem(program.post(f"{one}/switch-on"), 409, "conflict")
    assert problem["detail"].startswith("The operators have switched off")
    upstream.switch(is_active=True, by_team=False)
    program.post(f"{one}/switch-off")
    settings.TEAM_SERVERS = AllowedServers()
    assert_problem(program.post(f"{one}/switch-on"), 409, "conflict")
    assert_problem(program.post(PATH, BODY | {"name": "another"}), 422, "invalid")
    assert Upstream.objects.filter(is_active=True).count() == 0


def test_role_and_scope_are_needed(
    new_api_client: NewApiClient, ada: User, bob: User, team: Team
) -> None:
    upstream = Upstream.objects.create(
        name="openai", base_url="https://api.example.com/v1", team=team
    )
    one = f"{PATH}/{upstream.pk}"
    readers = new_api_client(ada, scopes=[Scope.MODEL_SERVERS_READ])
    assert readers.get(one).status_code == 200
    bobs = new_api_client(bob, "of bob")
    for program, code in ((readers, "missing-scope"), (bobs, "weak-role")):
        for answer in (
            program.post(PATH, BODY),
            program.patch(one, {"name": "x"}),
            program.post(f"{one}/switch-off"),
            program.delete(one),
        ):
            assert_problem(answer, 403, code)
    assert_problem(bobs.get(PATH), 403, "weak-role")
