"""Every error is a problem in the format of RFC 9457, and errors are found early."""

import logging
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client

from keyportal.api.framework.parsing import MAX_BODY_BYTES
from keyportal.api.urls import OPERATIONS
from keyportal.api.v1 import teams
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.support.api_client import ApiClient, NewApiClient, assert_problem
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database


def test_wrong_method_is_refused(db: None) -> None:
    cases: list[tuple[str, str, str]] = [
        ("PUT", "keys", "GET, POST"),
        ("POST", "keys/00000000", "DELETE, GET, PATCH"),
        ("GET", "keys/00000000/rotate", "POST"),
        ("OPTIONS", "self", "GET"),
        ("TRACE", "usage", "GET"),
        ("POST", "openapi.json", "GET"),
    ]
    for method, path, allowed in cases:
        with own_case(method, path, allowed):
            response = ApiClient(None).request(method, path)
            assert_problem(response, 405, "method-not-allowed")
            assert response["Allow"] == allowed


def test_head_is_get_without_a_body(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    response = program.request("HEAD", "keys")
    assert (response.status_code, response.content) == (200, b"")
    response = program.request("HEAD", "nothing")
    assert (response.status_code, response.content) == (404, b"")


def test_huge_body_is_refused_before_authentication(
    db: None, django_assert_num_queries: Any
) -> None:
    body = b'{"name": "%s"}' % (b"x" * MAX_BODY_BYTES)
    with django_assert_num_queries(0):
        assert_problem(ApiClient(None).request("POST", "keys", body), 413, "too-large")


def test_body_of_the_maximum_size_is_read(new_api_client: NewApiClient, ada: User) -> None:
    body = b'{"name": "ci"%s}' % (b" " * (MAX_BODY_BYTES - 14))
    assert len(body) == MAX_BODY_BYTES
    assert new_api_client(ada).request("POST", "keys", body).status_code == 201


def test_invalid_content_length_is_refused(new_api_client: NewApiClient, ada: User) -> None:
    cases: list[str] = ["-1", "many", "1" * 11, "1e3", "²"]
    program = new_api_client(ada)
    for length in cases:
        with own_case(length):
            token = program.token
            response = Client().generic(
                "POST",
                "/api/v1/keys",
                b"{}",
                CONTENT_LENGTH=length,
                headers={"Authorization": f"Bearer {token}"},
            )
            assert_problem(response, 413, "too-large")


def test_other_content_types_are_refused(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "application/json; charset=utf-16",
        "application/json, text/plain",
    ):
        with own_case(kind):
            response = program.request(
                "POST", "keys", b'{"name": "ci"}', headers={"Content_Type": kind}
            )
            assert_problem(response, 415, "unsupported-media-type")
            assert not ApiKey.objects.exists()


def test_json_content_type_may_have_a_charset(new_api_client: NewApiClient, ada: User) -> None:
    kind = 'application/json; charset="UTF-8"'
    response = new_api_client(ada).request(
        "POST", "keys", b'{"name": "ci"}', headers={"Content_Type": kind}
    )
    assert response.status_code == 201


def test_invalid_json_is_refused(new_api_client: NewApiClient, ada: User) -> None:
    cases: list[bytes] = [
        b" ",
        b"{",
        b'{"name": "ci"} x',
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b"[" * 60_000,
        b'{"x":' * 10_000,
        b"\xef\xbb\xbf{}",
        b'{"name": NaN}',
    ]
    program = new_api_client(ada)
    for body in cases:
        with own_case(body):
            response = program.request(
                "POST", "keys", body, headers={"Content_Type": "application/json"}
            )
            assert response.status_code in {400, 422}
            assert_problem(
                response,
                response.status_code,
                {400: "bad-request", 422: "invalid"}[response.status_code],
            )


def test_json_that_is_not_an_object_is_refused(new_api_client: NewApiClient, ada: User) -> None:
    program = new_api_client(ada)
    for body in (b"null", b"[]", b'"name"', b"1", b"true"):
        with own_case(body):
            assert_problem(program.request("POST", "keys", body), 422, "invalid")


def test_invalid_parameter_is_named(new_api_client: NewApiClient, ada: User) -> None:
    cases: list[tuple[str, str]] = [
        ("keys?limit=0", "limit"),
        ("keys?limit=101", "limit"),
        ("keys?limit=ten", "limit"),
        ("keys?limit=1&limit=2", "limit"),
        ("keys?limt=1", "limt"),
        ("keys?cursor=nonsense", "cursor"),
        ("keys?cursor=%F0%9F%A6%8A", "cursor"),
        ("keys?cursor=________________________", "cursor"),
        ("keys?name=%00", "name"),
        ("audit?action=nothing", "action"),
        ("audit?key_id=x", "key_id"),
        ("usage?range=1y", "range"),
        ("usage?start=2026-01-01T00:00:00Z", "start"),
        ("usage?start=2026-01-02T00:00:00Z&end=2026-01-01T00:00:00Z", "start"),
        ("usage?start=2020-01-01T00:00:00Z&end=2026-01-01T00:00:00Z", "start"),
        ("usage?start=0001-01-01T00:00:00%2B14:00&end=9999-12-31T00:00:00-12:00", "start"),
        ("usage?start=2026-01-01T00:00:00&end=2026-01-02T00:00:00", "start"),
        ("usage?group_by=owner", "group_by"),
        ("self?x=1", "x"),
    ]
    program = new_api_client(ada)
    for path, parameter in cases:
        with own_case(path, parameter):
            problem = assert_problem(program.get(path), 422, "invalid")
            assert [error["parameter"] for error in problem["errors"]] == [parameter]


def test_server_error_is_a_problem_with_an_id_from_the_log(
    new_api_client: NewApiClient,
    ada: User,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    program = new_api_client(ada)

    def fails(*_: object) -> None:
        raise RuntimeError(f"the reason, and {program.token}")

    monkeypatch.setattr(teams, "paginate", fails)
    with caplog.at_level(logging.ERROR):
        problem = assert_problem(program.get("teams"), 500, "internal-error")
    assert "the reason" not in str(problem)
    assert problem["request_id"] in caplog.text
    assert "the reason" in caplog.text


def test_unreachable_database_is_a_temporary_problem(
    new_api_client: NewApiClient, ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = new_api_client(ada)

    def fails(*_: object) -> None:
        raise OperationalError("password authentication failed for host 10.0.0.7")

    monkeypatch.setattr("keyportal.api.framework.throttling.count_request", fails)
    response = program.get("self")
    assert "10.0.0.7" not in str(assert_problem(response, 503, "unavailable"))
    assert response["Retry-After"] == "1"


def test_django_errors_are_problems_here_and_pages_elsewhere(client: Client) -> None:
    wrong = {"Host": "elsewhere.example.com"}
    assert_problem(client.get("/api/v1/self", headers=wrong), 400, "bad-request")
    page = client.get("/accounts/login/", headers=wrong)
    assert page.status_code == 400
    assert page["Content-Type"].startswith("text/html")


def test_error_before_the_view_is_a_problem(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr("django.middleware.common.CommonMiddleware.process_request", fails)
    assert_problem(ApiClient(None).get("self"), 500, "internal-error")
    page = Client(raise_request_exception=False).get("/accounts/login/")
    assert page.status_code == 500
    assert page["Content-Type"].startswith("text/html")


def test_every_operation_has_a_description() -> None:
    for operation in OPERATIONS:
        assert operation.summary, operation.path
        assert len(operation.summary) < 80


def test_too_many_parameters_are_a_client_error(
    new_api_client: NewApiClient, ada: User, caplog: pytest.LogCaptureFixture
) -> None:
    query = "&".join(f"a{number}=1" for number in range(1001))
    assert_problem(new_api_client(ada).get(f"keys?{query}"), 400, "bad-request")
    assert not [row for row in caplog.records if row.levelno >= logging.ERROR]
