"""Every URL of the portal, requested as a stranger, an outsider and each role of a team.

The tests read the URLconf. A new URL fails until the tables below have its role, and an example for
each part of its path.
"""

import re
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver
from pytest_django import Settings

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Role, Team, User
from tests.conftest import make_person
from tests.support.cases import case

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]
Answer = Any  # A response of Django's test client.
Visit = Callable[..., Answer]

# The weakest role that may open a page of a team.
NEEDS = {
    "keys:list": Role.VIEWER,
    "keys:guide": Role.VIEWER,
    "keys:create": Role.MEMBER,
    "keys:key": Role.VIEWER,
    "keys:permissions": Role.MEMBER,
    "keys:edit": Role.MEMBER,
    "keys:expiry": Role.MEMBER,
    "keys:hand_over": Role.MEMBER,
    "keys:disable": Role.VIEWER,
    "keys:enable": Role.MEMBER,
    "keys:manage": Role.ADMIN,
    "keys:unmanage": Role.ADMIN,
    "keys:rotate": Role.MEMBER,
    "keys:end_old": Role.MEMBER,
    "leaks:team": Role.VIEWER,
    "keys:delete": Role.VIEWER,
    "keys:receipt": Role.VIEWER,
    "keys:limits": Role.MEMBER,
    "keys:team_limits": Role.ADMIN,
    "keys:bulk_delete": Role.MEMBER,
    "keys:bulk_disable": Role.MEMBER,
    "keys:policy": Role.MEMBER,
    "keys:health": Role.MEMBER,
    "keys:templates": Role.ADMIN,
    "keys:template_create": Role.ADMIN,
    "keys:template_change": Role.ADMIN,
    "keys:template_delete": Role.ADMIN,
    "catalog:models": Role.VIEWER,
    "team_servers:servers": Role.ADMIN,
    "team_servers:server": Role.ADMIN,
    "team_servers:server_add": Role.ADMIN,
    "team_servers:server_edit": Role.ADMIN,
    "team_servers:server_off": Role.ADMIN,
    "team_servers:server_on": Role.ADMIN,
    "team_servers:server_delete": Role.ADMIN,
    "team_servers:server_test": Role.ADMIN,
    "team_servers:server_discover": Role.ADMIN,
    "team_servers:model_add": Role.ADMIN,
    "team_servers:route_delete": Role.ADMIN,
    "teams:general": Role.MEMBER,
    "teams:slug": Role.OWNER,
    "teams:off": Role.OWNER,
    "teams:delete": Role.OWNER,
    "teams:service_accounts": Role.VIEWER,
    "teams:service_account_create": Role.ADMIN,
    "teams:service_account_change": Role.ADMIN,
    "teams:service_account_delete": Role.ADMIN,
    "people:members": Role.VIEWER,
    "people:invite": Role.ADMIN,
    "people:leave": Role.VIEWER,
    "people:role": Role.ADMIN,
    "people:remove": Role.ADMIN,
    "people:resend": Role.ADMIN,
    "people:revoke": Role.ADMIN,
    "usage:usage": Role.VIEWER,
    "usage:usage_csv": Role.VIEWER,
    "usage:calls": Role.VIEWER,
    "usage:call": Role.VIEWER,
    "usage:running": Role.ADMIN,
    "usage:end_call": Role.ADMIN,
    "audit:list": Role.ADMIN,
    "management_keys:list": Role.ADMIN,
    "management_keys:create": Role.ADMIN,
    "management_keys:delete": Role.ADMIN,
}
# Pages that answer 404 even with that role, because their object doesn't exist in these tests: a
# receipt of a live key, a call, a template, a management key, a member, an invitation, a service
# account.
WITHOUT_OBJECT = {
    "team_servers:server",
    "team_servers:server_edit",
    "team_servers:server_off",
    "team_servers:server_on",
    "team_servers:server_delete",
    "team_servers:server_test",
    "team_servers:server_discover",
    "team_servers:model_add",
    "team_servers:route_delete",
    "people:role",
    "people:remove",
    "people:resend",
    "people:revoke",
    "keys:receipt",
    "usage:call",
    "usage:end_call",
    "management_keys:delete",
    "keys:template_change",
    "keys:template_delete",
    "teams:service_account_change",
    "teams:service_account_delete",
}
# They accept only POST.
POST_ONLY = {
    "usage:end_call",
    "keys:manage",
    "keys:unmanage",
    "team_servers:server_off",
    "team_servers:server_test",
}
# They accept only GET.
READ_ONLY = {
    "keys:list",
    "keys:guide",
    "keys:key",
    "leaks:team",
    "keys:receipt",
    "keys:health",
    "keys:templates",
    "catalog:models",
    "team_servers:servers",
    "team_servers:server",
    "teams:service_accounts",
    "people:members",
    "usage:usage",
    "usage:usage_csv",
    "usage:calls",
    "usage:call",
    "usage:running",
    "audit:list",
    "management_keys:list",
}
# Pages of operators that accept only POST.
OPERATOR_POST_ONLY = {
    "operators:server_test",
    "operators:server_off",
    "operators:provider_test",
}
# Pages of operators that change nothing, or that must be quick, and so don't ask again who it is.
OPERATOR_UNASKED = {
    "operators:server_test",
    "operators:server_off",
    "operators:provider_test",
}
# Other pages that ask again before they change something. People's pages ask for some roles only.
ASKED = {
    "keys:policy",
    "teams:slug",
    "teams:off",
    "teams:delete",
    "management_keys:create",
    "team_servers:server_add",
    "team_servers:server_edit",
    "team_servers:server_on",
    "team_servers:server_delete",
    "team_servers:server_discover",
    "team_servers:model_add",
    "team_servers:route_delete",
}
# Of the methods that no page accepts, one stands for the others, except where all are tried.
METHODS = ("get", "post", "put")
# The only pages that need no session.
PUBLIC = {
    "account_login",
    "account_inactive",
    "account_reset_password",
    "account_reset_password_done",
    "account_reset_password_from_key",
    "account_reset_password_from_key_done",
    "openid_connect_login",
    "openid_connect_callback",
    "openid_connect_logout",
    "account_sign_in_link",
    "leaks:report",
    "leaks:format",
    "leaks:description",
    "leaks:gitleaks",
    "leaks:trufflehog",
    "leaks:checker",
    "invitation",
    "programs:metadata",
    "programs:begin",
    "programs:token",
    "programs:revoke",
}
# Without a report, a grant, a provider, a link or a signature.
REFUSALS = {
    ("leaks:report", 400),
    ("programs:begin", 400),
    ("programs:token", 400),
    ("openid_connect_login", 302),
    ("openid_connect_callback", 302),
    ("openid_connect_logout", 400),
    ("account_sign_in_link", 404),
    ("invitation", 404),
}
# A value for each part of a path; the tests set `slug` and `public_id`.
EXAMPLES = {
    "uidb36": "1",
    "pk": "1",
    "key": "abc-def",
    "object_id": "1",
    "app_label": "teams",
    "content_type_id": "1",
    "id": "1",
    "url": "nowhere/",
    "template_id": "1",
    "account_id": "1",
    "account": "ci",
    "call_id": "0123456789abcdef",
    "provider_id": "nowhere",
    "row_id": "1",
    "token": "forged",
    "group_id": "1",
    "server_id": "1",
    "team_id": "1",
    "person_id": "1",
    "model_id": "1",
    "alias_id": "1",
    "route_id": "1",
    "number": "1",
    "user_id": "999999999",
    "invitation_id": "999999999",
    "invitation": "999999999",
    "server": "999999999",
}
PART = re.compile(r"<(\w+)>")


def walk(resolver: URLResolver, before: str = "", space: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and the path of every URL, with its `<parts>`."""
    for entry in resolver.url_patterns:
        path = before + as_template(str(entry.pattern))
        if isinstance(entry, URLResolver):
            inner = f"{space}{entry.namespace}:" if entry.namespace else space
            yield from walk(entry, path, inner)
        elif isinstance(entry, URLPattern):
            yield f"{space}{entry.name or path}", path


def as_template(pattern: str) -> str:
    """`teams/<slug:slug>/` and `^(?P<app>a|b)/$` as `teams/<slug>/` and `<app>/`."""
    whole = pattern.removeprefix("^").removesuffix("$").removesuffix(r"\Z")
    pattern = re.sub(r"\(\?P<(\w+)>[^()]*\)", r"<\1>", whole)
    return re.sub(r"<\w+:(\w+)>", r"<\1>", pattern)


URLS = sorted(walk(get_resolver(), "/"))
TEAM_URLS = [url for url in URLS if url[1].startswith("/teams/<slug>/")]
ADMIN_URLS = [url for url in URLS if url[1].startswith("/admin/")]
OPERATOR_URLS = [url for url in URLS if url[1].startswith("/operators/")]
API_URLS = [url for url in URLS if url[1].startswith("/api/")]
PAGES = [url for url in URLS if url not in API_URLS]


def fill(template: str, **parts: str) -> str:
    examples = EXAMPLES | parts
    return PART.sub(lambda found: examples[found[1]], template)


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    return issue(bob)[0]


def test_walk_finds_all_urls() -> None:
    assert {name for name, _ in TEAM_URLS} == set(NEEDS)
    assert {name for name, _ in URLS} >= PUBLIC
    assert len(ADMIN_URLS) > 50
    assert len(OPERATOR_URLS) >= 3
    assert not re.search(r"[\\^$()?]", "".join(path for _, path in URLS))


@pytest.fixture
def visit(client: Client, key: ApiKey, settings: Settings) -> Visit:
    """`visit("get", template)`: request a URL, whose parts are those of the key by default.

    The key must be unchanged afterwards.
    """
    # The tests send many forms. They are about who may send one.
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"portal_write": None}
    before = ApiKey.objects.values().get()

    def visit(method: str, template: str, **parts: str) -> Answer:
        parts = {"slug": key.team.slug, "public_id": key.public_id, "id": key.public_id} | parts
        path = fill(template, **parts)
        with case(method, path):
            answer = getattr(client, method)(path)
            assert [*ApiKey.objects.values()] == [before | {"owner_id": key.owner_id}]
        return answer

    return visit


def test_stranger_is_redirected_to_sign_in(client: Client, visit: Visit) -> None:
    assert client.get("/admin/login/").headers["Location"].startswith("/accounts/login/")
    for name, template in PAGES:
        for method in ("get", "post"):
            answer = visit(method, template)
            if name in PUBLIC:
                known = answer.status_code in {200, 405} or (name, answer.status_code) in REFUSALS
                assert known, (name, method)
                continue
            assert answer.status_code == 302, (name, method)
            assert answer.url.startswith(("/accounts/login/", "/admin/login/")), (name, method)


def test_session_does_not_open_the_management_api(
    client: Client, alice: User, visit: Visit
) -> None:
    """The response is the same with a session and without."""
    methods = (*METHODS, "patch", "delete", "options")
    calls = [(name, path, method) for name, path in API_URLS for method in methods]
    of_a_stranger = [visit(method, path, username="alice") for _, path, method in calls]
    client.force_login(alice)
    for (name, path, method), stranger in zip(calls, of_a_stranger, strict=True):
        owner = visit(method, path, username="alice")
        with case(method, path):
            assert owner.status_code == stranger.status_code
            if name == "api:openapi":
                assert owner.status_code in {200, 405}
                continue
            assert owner.status_code in {401, 404, 405}
            assert owner["Content-Type"] in {"application/problem+json", "application/scim+json"}
            assert owner.json()["detail"] == stranger.json()["detail"]


@pytest.mark.parametrize("method", METHODS)
def test_outsider_cannot_learn_that_a_team_exists(
    client: Client, charlie: User, visit: Visit, method: str
) -> None:
    client.force_login(charlie)
    nowhere = seen(client.get("/teams/u-ffffffffffff/nowhere/"))
    assert nowhere[0] == 404
    for name, template in TEAM_URLS:
        real = seen(visit(method, template))
        if real != nowhere:
            assert real == seen(visit(method, template, slug="u-ffffffffffff")), name
        # A wrong method is refused before the team is read.
        allowed = allowed_methods(name)
        assert real[0] == 404 if method in allowed else real[0] in {404, 405}, name


def allowed_methods(name: str) -> set[str]:
    return {"get", "post"} - {"post" if name in READ_ONLY else "get" if name in POST_ONLY else ""}


def test_wrong_methods_are_refused(client: Client, alice: User, visit: Visit) -> None:
    client.force_login(alice)
    for name, template in TEAM_URLS:
        for method in {*METHODS, "patch", "delete", "options"} - allowed_methods(name):
            assert visit(method, template).status_code == 405, (name, method)


def seen(answer: Answer) -> tuple[int, bytes]:
    return answer.status_code, without_token(answer.content)


def without_token(page: bytes) -> bytes:
    """Without what is random, which may spell any short word."""
    return re.sub(rb'(csrf\w*"|name="nonce")[^>]*', b"", page)


@pytest.mark.parametrize("role", list(Role))
def test_team_page_needs_its_role(
    client: Client, team: Team, key: ApiKey, visit: Visit, role: Role
) -> None:
    """Even of the person's own key. Roles have an order, so no page is shown to a stronger one."""
    key.owner = make_person("eve", team, role)
    ApiKey.objects.update(owner=key.owner)
    client.force_login(key.owner)
    for name, template in TEAM_URLS:
        if role == NEEDS[name]:
            shown = 405 if name in POST_ONLY else 404 if name in WITHOUT_OBJECT else 200
            assert visit("get", template).status_code == shown, name
        elif role.rank < NEEDS[name].rank:
            allowed = allowed_methods(name)
            # The strongest of the weaker roles asks in each way.
            for method in allowed if role.rank + 1 == NEEDS[name].rank else [max(allowed)]:
                assert visit(method, template).status_code == 403, (name, method)


@pytest.mark.parametrize("method", ["get", "post"])
def test_member_cannot_delete_the_key_of_another(
    client: Client, alice: User, issue: Issue, key: ApiKey, method: str
) -> None:
    other_key, _ = issue(alice, "hers")
    client.force_login(key.owner)
    path = f"/teams/{key.team.slug}/keys/{other_key.public_id}/delete/"
    answer = getattr(client, method)(path)
    assert answer.status_code == 403
    assert "your own keys" in answer.content.decode()
    assert ApiKey.objects.count() == 2


def test_key_of_another_team_is_not_found_below_the_own_team(
    client: Client, charlie: User, other_team: Team, key: ApiKey, visit: Visit
) -> None:
    client.force_login(charlie)
    for name, template in [url for url in TEAM_URLS if "<public_id>" in url[1]]:
        for method in allowed_methods(name):
            there = visit(method, template, slug=other_team.slug)
            nowhere = visit(method, template, slug=other_team.slug, public_id="00000000")
            with case(method, name):
                assert there.status_code == nowhere.status_code == 404
                page = without_token(there.content).replace(key.public_id.encode(), b"00000000")
                assert page == without_token(nowhere.content)


def test_pages_show_nothing_of_another_team(
    client: Client, charlie: User, other_team: Team, key: ApiKey
) -> None:
    client.force_login(charlie)
    for name, template in TEAM_URLS:
        if "<public_id>" in template or name in POST_ONLY:
            continue
        answer = client.get(fill(template, slug=other_team.slug))
        assert answer.status_code == (404 if name in WITHOUT_OBJECT else 200), name
        page = without_token(answer.content).decode()
        if answer["Content-Type"].startswith("text/html"):
            assert other_team.name.replace("'", "&#x27;") in page
        for secret in (key.public_id, key.team.slug, key.team.name, "bob"):
            assert secret not in page


def test_owner_of_a_team_cannot_open_the_admin(client: Client, alice: User, visit: Visit) -> None:
    client.force_login(alice)
    for page in ("/admin/", "/admin/login/"):
        assert client.get(page, follow=True).status_code == 403
    for (name, template), method in product(ADMIN_URLS, ("get", "post")):
        answer = visit(method, template)
        if answer.status_code == 302:
            # After the end of its session, one is sent to the index.
            sign_in = "/admin/" if name == "admin:logout" else "/admin/login/"
            assert answer.url.startswith(sign_in), name
        else:
            assert answer.status_code in {403, 404, 405}, name


def test_what_decides_who_may_do_what_is_asked_again(
    client: Client, alice: User, key: ApiKey, settings: Settings
) -> None:
    """Attack: someone at an open session leads the calls of a model to a server of theirs."""
    settings.ACCOUNT_RATE_LIMITS = {}
    User.objects.filter(pk=alice.pk).update(is_superuser=True)
    client.force_login(alice)
    session = client.session
    session["began_at"] -= 16 * 60
    session.save()
    asked, changing = set(), set()
    for name, template in TEAM_URLS + OPERATOR_URLS:
        path = fill(template, slug=key.team.slug, public_id=key.public_id)
        answer = client.post(path)
        if answer.status_code != 405:
            changing.add(name)
        if answer.headers.get("Location", "").startswith("/accounts/reauthenticate/"):
            asked.add(name)
    of_operators = {name for name in changing if name.startswith("operators:")}
    assert asked == ASKED | (of_operators - OPERATOR_UNASKED)
    assert of_operators > OPERATOR_UNASKED


def test_operators_pages_are_only_for_superusers(client: Client, alice: User, visit: Visit) -> None:
    """Staff who are no superusers have Django's admin, where they have permissions."""
    User.objects.filter(pk=alice.pk).update(is_staff=True)
    client.force_login(alice)
    for name, template in OPERATOR_URLS:
        for method in METHODS:
            # A wrong method is refused before it is asked who sends it.
            status = visit(method, template).status_code
            assert status in {404, 405}, (name, method)
            if method == "get":
                assert status == 404 or name in OPERATOR_POST_ONLY, name
