"""Authentication: only a management key, and only while its owner could do the same."""

from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, RequestFactory
from django.utils import timezone

from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.problems import REALM, InvalidKey
from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.api.urls import OPERATIONS
from keyportal.http.requests import HTTPS_REQUIRED
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.api_client import ApiClient, NewApiClient, assert_problem
from tests.support.cases import case, own_case

pytestmark = pytest.mark.any_database

EXAMPLES = {
    "{id}": "00000000",
    "{slug}": "u-8105f7322477",
    "{username}": "bob",
    "{invitation}": "1",
    "{account}": "ci",
    "{server}": "1",
}
ADDRESSES = sorted({(one.method, one.path) for one in OPERATIONS})


def example(path: str) -> str:
    for part, value in EXAMPLES.items():
        path = path.replace(part, value)
    return path


def test_every_operation_requires_a_management_key(db: None) -> None:
    for method, path in ADDRESSES:
        with case(method, path):
            response = ApiClient(None).request(method, example(path))
            assert "Bearer" in assert_problem(response, 401, "unauthorized")["detail"]
            assert response["WWW-Authenticate"] == REALM


def test_session_does_not_authenticate(client: Client, alice: User) -> None:
    client.force_login(alice)
    for method, path in ADDRESSES:
        with case(method, path):
            response = client.generic(method, f"/api/v1/{example(path)}")
            assert_problem(response, 401, "unauthorized")


def test_cookies_are_neither_read_nor_set(
    new_api_client: NewApiClient, ada: User, client: Client
) -> None:
    program = new_api_client(ada)
    client.force_login(ada)
    cookies = "; ".join(f"{name}={one.value}" for name, one in client.cookies.items())
    responses = [
        program.get("self", Cookie=cookies),
        program.post("keys", {"name": "ci"}, Cookie=cookies),
        ApiClient(None).get("self", Cookie=cookies),
        ApiClient(None).get("openapi.json", Cookie=cookies),
    ]
    assert [response.status_code for response in responses] == [200, 201, 401, 200]
    for response in responses:
        assert not response.cookies
        assert "Cookie" not in response.get("Vary", "")


def test_cross_site_form_has_no_effect(client: Client, alice: User) -> None:
    """With the user's session, as a browser would send it, and without any token of ours."""
    forger = Client(enforce_csrf_checks=True)
    forger.force_login(alice)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
        response = forger.generic("POST", "/api/v1/keys", '{"name": "forged"}', content_type=kind)
        assert_problem(response, 401, "unauthorized")
    assert not ApiKey.objects.exists()


def test_management_key_needs_no_csrf_token(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    program.client = Client(enforce_csrf_checks=True)
    assert program.post("keys", {"name": "ci"}).status_code == 201


def test_unknown_path_is_a_problem_response(db: None) -> None:
    for method in ("GET", "POST", "PUT", "OPTIONS"):
        with own_case(method):
            for path in (
                "",
                "keys/",
                "nothing",
                "keys/1",
                "keys/0000000%00",
                "keys/00000000%0A",
                "../x",
            ):
                assert_problem(ApiClient(None).request(method, path), 404, "not-found")


def test_api_key_does_not_authenticate(db: None, ada: User, issue: Any) -> None:
    _, text = issue(ada)
    assert_problem(ApiClient(text).get("self"), 401, "unauthorized")


def test_malformed_management_key_costs_no_query(
    ada: User, issue: Any, django_assert_num_queries: Any
) -> None:
    _, text = issue(ada)
    good = keystring.generate(prefix="mk-kp-").text
    bad = [text, good[:-1], good + "0", good[:20] + "!" + good[21:], "x", "", "mk-kp-", "é" * 52]
    with django_assert_num_queries(0):
        for token in bad:
            response = ApiClient(token).get("self")
            assert response.status_code == 401


def test_every_kind_of_invalid_key_gets_the_same_response(
    new_api_client: NewApiClient, ada: User, team: Team, issue: Any
) -> None:
    deleted, over, left = (new_api_client(ada, name) for name in ("deleted", "over", "left"))
    deleted.key.revoke(actor=ada)
    a_second_ago = timezone.now() - timedelta(seconds=1)
    ManagementKey.objects.filter(name="over").update(expires_at=a_second_ago)
    ManagementKey.objects.filter(name="left").update(owner=User.objects.create_user("stranger"))
    unknown = ApiClient(keystring.generate(prefix="mk-kp-").text)
    responses = [one.get("self") for one in (deleted, over, left, unknown, ApiClient("mk-kp-x"))]
    problems = [{**assert_problem(one, 401, "unauthorized"), "request_id": ""} for one in responses]
    assert all(one == problems[0] for one in problems)
    assert len({one["WWW-Authenticate"] for one in responses}) == 1


def test_management_key_is_read_only_from_the_authorization_header(
    new_api_client: NewApiClient, ada: User
) -> None:
    program = new_api_client(ada)
    for header in ("X_Api_Key", "Cookie", "Proxy_Authorization"):
        with own_case(header):
            token = program.token
            for value in (f"{token}", f"Bearer {token}", f"key={token}"):
                assert_problem(ApiClient(None).get("self", **{header: value}), 401, "unauthorized")
            assert_problem(
                ApiClient(None).get(f"self?access_token={token}&key={token}"), 401, "unauthorized"
            )


def test_other_authorization_schemes_are_refused(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    for scheme in ("Basic", "Token", "", "Bearer Bearer", "Bearer,"):
        with own_case(scheme):
            token = program.token
            response = ApiClient(None).get("self", Authorization=f"{scheme} {token}".strip())
            assert_problem(response, 401, "unauthorized")


def test_management_key_works_only_while_its_owner_is_a_member(
    new_api_client: NewApiClient, ada: User, team: Team
) -> None:
    program = new_api_client(ada)
    assert program.get("self").status_code == 200
    ada.memberships.all().delete()
    assert_problem(program.get("self"), 401, "unauthorized")
    Membership.objects.create(team=team, user=ada, role=Role.VIEWER)
    assert_problem(program.get("self"), 401, "unauthorized")  # It was deleted.


def test_management_key_of_an_inactive_owner_or_team_is_refused(
    new_api_client: NewApiClient, ada: User, team: Team
) -> None:
    program = new_api_client(ada)
    User.objects.filter(pk=ada.pk).update(is_active=False)
    assert_problem(program.get("self"), 401, "unauthorized")
    User.objects.filter(pk=ada.pk).update(is_active=True)
    Team.objects.filter(pk=team.pk).update(is_active=False)
    assert_problem(program.get("self"), 401, "unauthorized")


def test_membership_in_another_team_does_not_count(
    new_api_client: NewApiClient, ada: User, other_team: Team
) -> None:
    program = new_api_client(ada)
    ada.memberships.update(team=other_team)
    assert_problem(program.get("self"), 401, "unauthorized")


def test_missing_scope_is_named(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    for operation in OPERATIONS:
        if operation.scope is None:
            assert operation.path == "self"
            continue
        others = [scope for scope in Scope if scope != operation.scope]
        ManagementKey.objects.update(scopes=others)
        response = program.request(operation.method, example(operation.path), {})
        with case(operation.method, operation.path):
            assert operation.scope in assert_problem(response, 403, "missing-scope")["detail"]
            assert f'scope="{operation.scope}"' in response["WWW-Authenticate"]


def test_demoted_owner_limits_the_management_key(
    new_api_client: NewApiClient, ada: User, bob: User, issue: Any
) -> None:
    program = new_api_client(ada)
    his, _ = issue(bob)
    assert program.get("audit").status_code == 200
    assert program.post(f"keys/{his.public_id}/disable").status_code == 200
    ada.memberships.update(role=Role.MEMBER)
    assert_problem(program.get("audit"), 403, "weak-role")
    for response in (
        program.post(f"keys/{his.public_id}/enable"),
        program.post(f"keys/{his.public_id}/rotate", {"grace": "now"}),
        program.post(f"keys/{his.public_id}/end-old-secret"),
        program.patch(f"keys/{his.public_id}", {"name": "mine"}),
        program.delete(f"keys/{his.public_id}"),
    ):
        assert "another member" in assert_problem(response, 403, "weak-role")["detail"]
    assert program.post("keys", {"name": "own"}).status_code == 201
    ada.memberships.update(role=Role.VIEWER)
    assert_problem(program.post("keys", {"name": "another"}), 403, "weak-role")
    assert program.get("keys").status_code == 200
    his.refresh_from_db()
    assert (his.name, his.disabled_at is not None) == ("test-key", True)


def test_policy_on_creator_roles_applies(
    new_api_client: NewApiClient, bob: User, team: Team
) -> None:
    from keyportal.teams.policy import Policy

    team.policy = Policy(min_creator_role="admin")
    team.save(update_fields=["policy"])
    assert_problem(new_api_client(bob).post("keys", {"name": "ci"}), 422, "policy")


def test_last_use_is_stored_once_a_minute(
    new_api_client: NewApiClient, ada: User, django_assert_num_queries: Any
) -> None:
    program = new_api_client(ada)
    program.get("self")
    key = ManagementKey.objects.get()
    assert key.last_used_at
    assert key.last_used_address == "127.0.0.1"
    with django_assert_num_queries(3):
        program.get("self")
    earlier = timezone.now() - timedelta(minutes=2)
    ManagementKey.objects.update(last_used_at=earlier)
    program.get("self")
    assert ManagementKey.objects.filter(last_used_at__gt=earlier).exists()


def test_request_is_undone_if_the_management_key_is_deleted_meanwhile(
    new_api_client: NewApiClient, ada: User
) -> None:
    """It was let in, then deleted; what it was about to change stays as it is."""
    key = new_api_client(ada).key
    caller = Caller(key, key.membership, None)
    key.revoke(actor=ada)
    (create,) = [one for one in OPERATIONS if one.handler.__name__ == "create_key"]
    request = RequestFactory().post(
        "/api/v1/keys", '{"name": "late"}', content_type="application/json"
    )
    with pytest.raises(InvalidKey):
        create.execute(request, caller)
    assert not ApiKey.objects.exists()


def test_plain_http_is_refused_without_a_redirect(
    new_api_client: NewApiClient, ada: User, settings: Any
) -> None:
    settings.IS_HTTPS = settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_REDIRECT_EXEMPT = [r"^api(/|$)"]
    program = new_api_client(ada)
    problem = assert_problem(program.get("self"), 426, "https-required")
    assert problem["detail"] == HTTPS_REQUIRED
    response = program.client.get(
        "/api/v1/self", secure=True, headers={"Authorization": f"Bearer {program.token}"}
    )
    assert response.status_code == 200


def test_kinds_of_keys_have_different_prefixes() -> None:
    assert not set(settings.KEY_PREFIXES) & set(settings.MANAGEMENT_KEY_PREFIXES)
