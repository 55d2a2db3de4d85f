"""Admins of a team add model servers for the team, where the operators let them."""

import socket
import time
from collections.abc import Callable
from functools import partial
from http.client import BadStatusLine
from itertools import product
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.aliases import Alias
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.catalog.servers.changes import MAX_TEAM_SERVERS
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.catalog.snapshot import Snapshot
from keyportal.http import fetch as http_fetch
from keyportal.http.fetch import Reply
from keyportal.operators import server_access
from keyportal.teams.lifecycle import changes
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.sign_in.sessions import BEGAN_AT
from tests.operators.conftest import BeforeLock
from tests.support.cases import case, own_case
from tests.support.forms import form_data

SERVERS = "/teams/u-8105f7322477/servers/"
CREDENTIAL = "sk-the-accounts-own-credential"
PATHS = ("", "edit/", "off/", "on/", "delete/", "test/", "discover/", "models/add/")
both_ways = pytest.mark.parametrize(
    ("path", "form"),
    [("models/add/", {"upstream_model": "tiny"}), ("discover/", {"ids": "tiny"})],
)
"""To serve the model tiny."""
SignIn = Callable[[User], Client]


@pytest.fixture(autouse=True)
def public(settings: Settings) -> None:
    settings.TEAM_SERVERS = AllowedServers(is_public=True)


@pytest.fixture
def admin(sign_in: SignIn, ada: User) -> Client:
    return sign_in(ada)


@pytest.fixture
def upstream(team: Team) -> Upstream:
    upstream = Upstream(name="openai", base_url="https://api.example.com/v1", team=team)
    upstream.credential = CREDENTIAL
    upstream.save()
    return upstream


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the server was asked. It lists two models."""
    requests: list[dict[str, Any]] = []

    def fetch(url: str, headers: dict[str, str], _context: object, **more: Any) -> Reply:
        requests.append({"url": url, "headers": headers, **more})
        return Reply(200, "OK", b'{"data": [{"id": "gpt-4o"}, {"id": "tiny"}]}')

    monkeypatch.setattr(http_fetch, "fetch", fetch)
    return requests


def served_by(upstream: Upstream, name: str, team: Team | None) -> ServedModel:
    model, _ = ServedModel.objects.get_or_create(name=name, defaults={"team": team})
    Route.objects.create(model=model, upstream=upstream, upstream_model="m")
    return model


def text_of(client: Client, path: str = "") -> str:
    return client.get(SERVERS + path).content.decode()


def add(client: Client, **fields: str) -> Any:
    form = form_data(client.get(f"{SERVERS}add/?preset=openai"), **fields)
    return client.post(f"{SERVERS}add/", form)


def targets(name: str) -> int:
    return len(Snapshot.read("default").models[name].targets)


@pytest.mark.any_database
def test_admin_adds_the_teams_own_account(admin: Client, team: Team) -> None:
    assert "No model servers yet." in text_of(admin)
    form = form_data(admin.get(f"{SERVERS}add/?preset=openai"), credential=CREDENTIAL)
    assert not {name for name in form if name.endswith("_file")}
    response = admin.post(f"{SERVERS}add/", form)
    upstream = Upstream.objects.get()
    assert response["Location"] == f"{SERVERS}{upstream.pk}/"
    assert (upstream.team, upstream.credential) == (team, CREDENTIAL)
    for path in ("", f"{upstream.pk}/", f"{upstream.pk}/edit/", f"{upstream.pk}/delete/"):
        text = text_of(admin, path)
        assert "openai" in text
        assert CREDENTIAL not in text
    events = AuditEvent.objects.for_team(team).filter(action=Action.CATALOG_CHANGED)
    told = {(event.actor, event.target.partition(":")[0]) for event in events}
    assert told == {("ada", "Model server openai")}
    assert CREDENTIAL not in "".join(event.target for event in events)


@pytest.mark.any_database
def test_only_presets_of_hosted_servers_are_offered(admin: Client) -> None:
    text = text_of(admin, "add/")
    assert "?preset=anthropic" in text
    assert "?preset=vllm" not in text


@pytest.mark.any_database
def test_server_that_is_not_allowed_is_refused(admin: Client) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"base_url": "http://api.example.com/v1"}, "needs https://"),
        ({"base_url": "https://127.0.0.1/v1"}, "don&#x27;t allow teams to add 127.0.0.1"),
        ({"base_url": "https://2130706433/v1"}, "don&#x27;t allow teams to add 2130706433"),
        ({"base_url": "https://[::ffff:10.0.0.1]/v1"}, "don&#x27;t allow teams"),
        ({"base_url": "https://169.254.169.254/v1"}, "metadata addresses are not allowed"),
        ({"base_url": "loopback:"}, "needs https://"),
        ({"base_url": "https://NAME.openai.azure.com/openai/v1"}, "Replace NAME"),
        ({"credential": "a\r\nX-Evil: 1"}, "Use visible ASCII characters only."),
        ({"headers": "X-A: 1\r\nHost: x"}, "can&#x27;t be set here"),
        ({"name": "x\nModel server gpu-7 is back."}, "Use letters, digits"),
    ]
    for fields, message in cases:
        with own_case(fields, message):
            response = add(admin, **fields)
            assert response.status_code == 422
            assert message in response.content.decode()
            assert not Upstream.objects.exists()


@pytest.mark.any_database
def test_files_of_the_host_are_out_of_reach(admin: Client) -> None:
    """Attack: the server gets the client certificate of another server."""
    form = form_data(admin.get(f"{SERVERS}add/?preset=openai"))
    files = {"ca_file": "/etc/passwd", "client_certificate_file": "/etc/ssl/key.pem"}
    assert admin.post(f"{SERVERS}add/", form | files).status_code == 302
    upstream = Upstream.objects.get()
    assert (upstream.ca_file, upstream.client_certificate_file) == ("", "")


@pytest.mark.any_database
def test_name_tells_nothing_of_other_servers(
    admin: Client, upstream: Upstream, other_team: Team
) -> None:
    """Names are unique for each team, so nobody learns which servers others have."""
    Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    Upstream.objects.create(name="theirs", base_url=upstream.base_url, team=other_team)
    for name in ("gpu-7", "theirs"):
        assert add(admin, name=name).status_code == 302
    response = add(admin, name="openai")
    assert response.status_code == 422
    assert "already exists" in response.content.decode()


@pytest.mark.any_database
def test_a_team_has_only_so_many(admin: Client, team: Team) -> None:
    for number in range(MAX_TEAM_SERVERS - 1):
        Upstream.objects.create(name=f"s{number}", base_url="https://a.example.com", team=team)
    page = admin.get(f"{SERVERS}add/?preset=openai")
    assert admin.post(f"{SERVERS}add/", form_data(page)).status_code == 302
    refused = admin.post(f"{SERVERS}add/", form_data(page, name="one-more"))
    assert refused.status_code == 422
    assert "A team has at most 10 model servers." in refused.content.decode()
    assert team.servers.count() == MAX_TEAM_SERVERS


@pytest.mark.any_database
def test_servers_of_others_are_not_found(
    admin: Client, upstream: Upstream, other_team: Team
) -> None:
    theirs = Upstream.objects.create(
        name="theirs", base_url="https://api.example.com/v1", team=other_team
    )
    operators = Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    for other, path in product((theirs, operators), PATHS):
        with case(other, path):
            address = f"{SERVERS}{other.pk}/{path}"
            statuses = (
                admin.get(address).status_code,
                admin.post(address, {"name": "x"}).status_code,
            )
            assert set(statuses) <= {404, 405}
            assert 404 in statuses
            assert {*Upstream.objects.values_list("name", flat=True)} == {
                "openai",
                "theirs",
                "gpu-7",
            }
    text = text_of(admin)
    assert "theirs" not in text
    assert "gpu-7" not in text


@pytest.mark.any_database
def test_route_of_another_server_is_not_found(admin: Client, upstream: Upstream) -> None:
    operators = Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    served_by(operators, "public/llama", None)
    route = Route.objects.get()
    path = f"{SERVERS}{upstream.pk}/routes/{route.pk}/delete/"
    assert admin.post(path).status_code == 404
    assert Route.objects.exists()


@pytest.mark.any_database
@pytest.mark.parametrize("path", ["edit/", "off/", "delete/", "models/add/"])
def test_admin_who_is_demoted_while_the_form_is_open_changes_nothing(
    admin: Client, ada: User, upstream: Upstream, path: str, before_lock: BeforeLock
) -> None:
    adas = Membership.objects.filter(user=ada)
    before_lock("lock_team", lambda: adas.update(role=Role.MEMBER), server_access)
    form = form_data(admin.get(f"{SERVERS}{upstream.pk}/edit/"), name="stolen")
    before = Upstream.objects.values().get()
    response = admin.post(f"{SERVERS}{upstream.pk}/{path}", form | {"upstream_model": "x"})
    assert response.status_code == 403
    assert Upstream.objects.values().get() == before
    assert not Route.objects.exists()


@pytest.mark.any_database
def test_credential_is_entered_only_by_who_signed_in_lately(
    admin: Client, upstream: Upstream
) -> None:
    session = admin.session
    session[BEGAN_AT] = time.time() - 3600
    session.save()
    for path in ("add/", f"{upstream.pk}/edit/"):
        response = admin.post(SERVERS + path, {"name": "x"})
        assert "/accounts/" in response["Location"]
    assert admin.get(f"{SERVERS}{upstream.pk}/").status_code == 200


@pytest.mark.any_database
def test_new_address_needs_the_credential_again(admin: Client, upstream: Upstream) -> None:
    """Attack: an admin leads the credential that another admin entered to a server of theirs."""
    address = f"{SERVERS}{upstream.pk}/edit/"
    form = form_data(admin.get(address), base_url="https://evil.example.com/v1")
    refused = admin.post(address, form)
    assert refused.status_code == 422
    assert "enter its credential again" in refused.content.decode()


@pytest.mark.any_database
def test_discovered_models_are_the_teams_own(
    admin: Client, upstream: Upstream, team: Team, other_team: Team, asked: list[dict[str, Any]]
) -> None:
    address = f"{SERVERS}{upstream.pk}/discover/"
    assert text_of(admin, f"{upstream.pk}/discover/").count('name="ids"') == 2
    form = {"ids": ["gpt-4o"], "team": other_team.pk}
    done = admin.post(address, form, follow=True)
    assert f"Served now: {team.slug}/gpt-4o." in done.content.decode()
    model = ServedModel.objects.get()
    assert (model.name, model.team) == (f"{team.slug}/gpt-4o", team)
    assert [*ServedModel.objects.callable_by(team)] == [model]
    (target,) = Snapshot.read("default").models[model.name].targets
    assert (target.team_id, target.name) == (team.pk, f"{team.slug}/openai")
    request = asked[0]
    assert request["url"] == "https://api.example.com/v1/models"
    assert request["headers"]["authorization"] == f"Bearer {CREDENTIAL}"
    assert request["is_forbidden"]("10.0.0.7")
    assert not request["is_forbidden"]("8.8.8.8")


@pytest.mark.any_database
def test_test_says_what_the_server_said(
    admin: Client, upstream: Upstream, asked: list[dict[str, Any]]
) -> None:
    text = admin.post(f"{SERVERS}{upstream.pk}/test/").content.decode()
    assert "2 models." in text
    assert "gpt-4o" in text
    assert CREDENTIAL not in text
    assert all(request["is_forbidden"]("127.0.0.1") for request in asked)


@pytest.mark.any_database
def test_failed_test_leads_to_the_form(
    admin: Client, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    text = admin.post(f"{SERVERS}{upstream.pk}/test/").content.decode()
    assert "api.example.com can&#x27;t be resolved: Name or service not known." in text
    assert "Errno" not in text
    assert f'action="{SERVERS}{upstream.pk}/edit/"' in text
    assert f"{SERVERS}{upstream.pk}/discover/" not in text


@pytest.mark.any_database
def test_a_person_asks_a_server_only_so_often(
    admin: Client, upstream: Upstream, asked: list[dict[str, Any]], settings: Settings
) -> None:
    """Attack: a script reads the page, and so floods a server in the Internet from here."""
    settings.ACCOUNT_RATE_LIMITS = {"ask_server": "1/d/user"}
    address = f"{SERVERS}{upstream.pk}/discover/"
    assert [admin.get(address).status_code for _ in range(2)] == [200, 429]
    assert len(asked) == 1


@pytest.mark.any_database
def test_page_asks_no_address_inside(
    admin: Client, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: the name resolved to a public address when it was typed."""
    rows = [(0, 1, 6, "", ("127.0.0.1", 443))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    connected: list[object] = []
    monkeypatch.setattr(socket, "create_connection", lambda *a: connected.append(a))
    text = text_of(admin, f"{upstream.pk}/discover/")
    assert "can&#x27;t be read: api.example.com has an address that is not allowed" in text
    assert not connected


@pytest.mark.any_database
def test_model_of_an_operators_server_can_not_be_taken(
    admin: Client, upstream: Upstream, team: Team
) -> None:
    """Attack: half of the calls of a model go to a server of an admin's choice."""
    gpu = Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    name = served_by(gpu, f"{team.slug}/llama", team).name
    address = f"{SERVERS}{upstream.pk}/models/add/"
    refused = admin.post(address, {"upstream_model": "x", "name": name})
    assert refused.status_code == 422
    assert targets(name) == 1


@pytest.mark.any_database
def test_name_of_a_model_begins_with_the_slug(
    admin: Client, upstream: Upstream, team: Team
) -> None:
    address = f"{SERVERS}{upstream.pk}/models/add/"
    admin.post(address, {"upstream_model": "gpt-4o", "name": "public/gpt-4o"})
    assert ServedModel.objects.get().name == f"{team.slug}/public/gpt-4o"


@pytest.mark.any_database
def test_a_team_serves_only_so_many_models(
    admin: Client, upstream: Upstream, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keyportal.operators.forms.MAX_TEAM_MODELS", 1)
    address = f"{SERVERS}{upstream.pk}/models/add/"
    assert admin.post(address, {"upstream_model": "a"}).status_code == 302
    refused = admin.post(address, {"upstream_model": "b"})
    assert refused.status_code == 422
    assert "at most 1 models" in refused.content.decode()


@pytest.mark.any_database
@both_ways
def test_several_forms_at_once_serve_no_more_models(
    admin: Client,
    upstream: Upstream,
    team: Team,
    asked: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    before_lock: BeforeLock,
    path: str,
    form: dict[str, str],
) -> None:
    monkeypatch.setattr("keyportal.operators.forms.MAX_TEAM_MODELS", 1)
    other = partial(served_by, upstream, f"{team.slug}/other", team)
    before_lock("lock_team", other, server_access)
    refused = admin.post(f"{SERVERS}{upstream.pk}/{path}", form)
    assert refused.status_code == 422
    assert "at most 1 models" in refused.content.decode()
    assert Route.objects.count() == 1


@pytest.mark.any_database
@both_ways
def test_model_gets_the_slug_that_the_team_has_at_the_end(
    admin: Client,
    alice: User,
    upstream: Upstream,
    team: Team,
    asked: list[dict[str, Any]],
    before_lock: BeforeLock,
    path: str,
    form: dict[str, str],
) -> None:
    change = partial(changes.change_slug, team, "nova", actor=alice)
    before_lock("lock_team", change, server_access)
    assert admin.post(f"{SERVERS}{upstream.pk}/{path}", form).status_code == 302
    assert ServedModel.objects.get().name == "nova/tiny"


@pytest.mark.any_database
@pytest.mark.parametrize("is_status", [True, False])
def test_credential_that_the_server_repeats_is_not_shown(
    admin: Client, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, is_status: bool
) -> None:
    def fetch(*_: object, **__: object) -> Reply:
        if is_status:
            return Reply(401, f"No {CREDENTIAL}", b"")
        raise BadStatusLine(f"No {CREDENTIAL}")

    monkeypatch.setattr(http_fetch, "fetch", fetch)
    text = text_of(admin, f"{upstream.pk}/discover/")
    assert "No …" in text
    assert CREDENTIAL not in text


@pytest.mark.any_database
def test_alias_of_others_can_not_be_taken(
    admin: Client, upstream: Upstream, team: Team, other_team: Team, asked: list[dict[str, Any]]
) -> None:
    """Attack: an owner takes the first part of an alias as slug, and ends it for other teams."""
    gpu = Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    llama = served_by(gpu, "public/llama", None)
    Alias.objects.create(name=f"{team.slug}/gpt-4o", model=llama)
    Alias.objects.create(name=f"{team.slug}/tiny", model=llama, team=team)
    address = f"{SERVERS}{upstream.pk}/models/add/"
    assert admin.post(address, {"upstream_model": "gpt-4o"}).status_code == 422
    admin.post(f"{SERVERS}{upstream.pk}/discover/", {"ids": ["gpt-4o", "tiny"]})
    models = Snapshot.read("default").models
    assert models[f"{team.slug}/gpt-4o"].name == "public/llama"
    assert models[f"{team.slug}/gpt-4o"].is_served_to(other_team.pk)
    assert models[f"{team.slug}/tiny"].name == f"{team.slug}/tiny"  # The team's own one.


@pytest.mark.any_database
def test_route_of_an_operator_leads_nobody_else_there(
    upstream: Upstream, team: Team, other_team: Team
) -> None:
    for name, owner in (("public/x", None), (f"{other_team.slug}/x", other_team)):
        model = served_by(upstream, name, owner)
        assert targets(name) == 0
        assert model not in ServedModel.objects.callable_by(other_team)
    assert served_by(upstream, f"{team.slug}/x", team) in ServedModel.objects.callable_by(team)
    assert targets(f"{team.slug}/x") == 1
    with pytest.raises(ValueError, match="models of this team only"):
        ServedModel.objects.serve("public/y", team=None, upstream=upstream, upstream_model="y")


@pytest.mark.any_database
def test_setting_that_is_turned_off_stops_the_servers(
    admin: Client, upstream: Upstream, team: Team, settings: Settings
) -> None:
    model = served_by(upstream, f"{team.slug}/x", team)
    settings.TEAM_SERVERS = AllowedServers()
    assert targets(model.name) == 0
    assert model not in ServedModel.objects.callable_by(team)
    for path in ("", f"{upstream.pk}/", "add/"):
        assert "have switched off model servers of teams" in text_of(admin, path)
    assert "/servers/add/" not in text_of(admin)
    assert 'name="base_url"' not in text_of(admin, "add/")
    another = {"name": "another", "base_url": upstream.base_url}
    refused = admin.post(f"{SERVERS}add/", another)
    assert refused.status_code == 422
    assert "have switched off model servers of teams" in refused.content.decode()
    edit = f"{SERVERS}{upstream.pk}/edit/"
    assert admin.post(edit, form_data(admin.get(edit), read_timeout="5")).status_code == 422
    assert admin.post(f"{SERVERS}{upstream.pk}/delete/").status_code == 302
    assert not Upstream.objects.exists()


@pytest.mark.any_database
def test_server_whose_name_is_no_longer_allowed_is_not_used(
    upstream: Upstream, team: Team, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    model = served_by(upstream, f"{team.slug}/x", team)
    settings.TEAM_SERVERS = AllowedServers.parse(["api.openai.com"])
    assert targets(model.name) == 0
    assert f"Model server {team.slug}/openai is not used" in caplog.text


@pytest.mark.any_database
def test_tab_is_there_only_where_it_is_of_use(
    admin: Client, team: Team, settings: Settings
) -> None:
    general = f"/teams/{team.slug}/settings/"
    assert SERVERS in admin.get(general).content.decode()
    settings.TEAM_SERVERS = AllowedServers()
    assert SERVERS not in admin.get(general).content.decode()


def test_server_is_deleted_with_its_models(admin: Client, upstream: Upstream, team: Team) -> None:
    gpu = Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7/v1")
    alone = served_by(upstream, f"{team.slug}/alone", team)
    both = served_by(upstream, f"{team.slug}/both", team)
    served_by(gpu, both.name, team)
    address = f"{SERVERS}{upstream.pk}/delete/"
    text = text_of(admin, f"{upstream.pk}/delete/")
    assert "1 model will stop" in text
    assert alone.name in text
    assert admin.post(address)["Location"] == SERVERS
    assert [*ServedModel.objects.all()] == [both]
    assert AuditEvent.objects.for_team(team).filter(actor="ada").exists()


@pytest.mark.any_database
def test_model_that_is_served_no_more_is_deleted(
    admin: Client, upstream: Upstream, team: Team
) -> None:
    route = served_by(upstream, f"{team.slug}/x", team).routes.get()
    assert admin.post(f"{SERVERS}{upstream.pk}/routes/{route.pk}/delete/").status_code == 302
    assert not ServedModel.objects.exists()


def test_server_of_a_deleted_team_is_deleted(upstream: Upstream, team: Team) -> None:
    served_by(upstream, f"{team.slug}/x", team)
    team.delete()
    assert not Upstream.objects.exists()


@pytest.mark.any_database
def test_team_switches_on_only_what_it_has_switched_off(admin: Client, upstream: Upstream) -> None:
    """Attack: an admin switches on, perhaps after off, what an operator has switched off."""
    page = f"{SERVERS}{upstream.pk}/"

    def is_on_after(path: str) -> bool:
        admin.post(f"{page}{path}")
        upstream.refresh_from_db()
        return upstream.is_active

    assert [is_on_after(path) for path in ("off/", "off/", "on/")] == [False, False, True]
    for is_off_before in (False, True):
        if is_off_before:
            assert not is_on_after("off/")
        upstream.switch(is_active=False, by_team=False)
        assert [is_on_after(path) for path in ("on/", "off/", "on/")] == [False] * 3
        text = admin.post(f"{page}on/", follow=True).content.decode()
        assert "Only they switch it on again." in text
        assert f'action="{page}on/"' not in text
        upstream.switch(is_active=True, by_team=False)


@pytest.mark.any_database
def test_server_that_is_no_longer_allowed_is_not_switched_on(
    admin: Client, upstream: Upstream, settings: Settings
) -> None:
    page = f"{SERVERS}{upstream.pk}/"
    admin.post(f"{page}off/")
    for allowed, reason in (
        (AllowedServers(), "have switched off model servers of teams."),
        (AllowedServers.parse(["api.openai.com"]), "allow teams to add api.example.com."),
    ):
        settings.TEAM_SERVERS = allowed
        assert reason in admin.post(f"{page}on/", follow=True).content.decode()
        assert not Upstream.objects.get().is_active


@pytest.mark.any_database
def test_operators_see_and_switch_off_the_servers_of_teams(
    sign_in: SignIn, upstream: Upstream, team: Team
) -> None:
    root = User.objects.create_superuser("olga", "olga@example.com")
    operator = sign_in(root)
    text = operator.get("/operators/servers/").content.decode()
    assert f"Of the team {team.name}" in text
    page = operator.get(f"/operators/servers/{upstream.pk}/").content.decode()
    assert "for its own models" in page
    upstream.switch(is_active=False, by_team=True)
    assert operator.post(f"/operators/servers/{upstream.pk}/off/").status_code == 302
    assert Upstream.objects.get().is_held
    event = AuditEvent.objects.for_team(team).latest("pk")
    assert event.actor == "olga"
    assert event.target.startswith("Model server openai: Off by team: yes → no")
    edit = operator.get(f"/operators/servers/{upstream.pk}/edit/")
    assert "ca_file" not in form_data(edit)
