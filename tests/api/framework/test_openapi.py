"""The OpenAPI document describes every response, and no request causes a server error."""

import re
from collections import Counter
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from itertools import product
from typing import Any

import hypothesis
import pytest
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, transaction
from django.test import Client
from hypothesis import HealthCheck

from keyportal.api.framework.openapi import build_document
from keyportal.api.framework.operations import PATH_PARAMETERS
from keyportal.api.framework.problems import BY_STATUS
from keyportal.api.scopes import Scope
from keyportal.api.urls import OPERATIONS
from keyportal.catalog.models import ServedModel, Upstream
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.people.models import Invitation
from keyportal.teams.models import User
from keyportal.teams.service_accounts import changes as service_accounts
from keyportal.usage.models import Window
from tests.support.api_client import NewApiClient
from tests.support.cases import case

pytestmark = pytest.mark.any_database

DOCUMENT = build_document(OPERATIONS)
EXAMPLES = {"positive": 3, "negative": 2}


@cache
def schema() -> Any:
    """Made by the first test that needs it, because the import takes long."""
    import schemathesis

    schema = schemathesis.openapi.from_dict(strict(DOCUMENT))
    schema.app = WSGIHandler()
    # `test_authentication` sends wrong tokens.
    schema.config.generation.update(with_security_parameters=False)
    return schema


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """The document for a reader who lets a response have no other fields than those in it."""
    document = deepcopy(document)
    for body in document["components"]["schemas"].values():
        if "properties" in body:
            body["additionalProperties"] = False
    return document


@pytest.fixture
def kept_connection() -> Iterator[None]:
    """A server closes its connection between requests; the test's transaction is in this one."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.mark.long
@pytest.mark.usefixtures("kept_connection")
def test_every_response_is_in_the_document(
    new_api_client: NewApiClient,
    alice: User,
    ada: User,
    model: ServedModel,
    issue: Any,
    settings: Any,
) -> None:
    """One test of all operations, because one process should import what makes the requests."""
    settings.API_REQUESTS_PER_MINUTE = 10**6
    settings.ALLOWED_HOSTS = ["*"]
    key, _ = issue(ada)
    service_accounts.create(key.team, "ci", "ci@example.com", actor=None)
    invitation = Invitation.objects.create(team=key.team, email="x@example.com", role="viewer")
    settings.TEAM_SERVERS = AllowedServers(is_public=True)
    server = Upstream.objects.create(name="x", base_url="https://x.example.com", team=key.team)
    there = {
        "id": key.public_id,
        "username": "ada",
        "slug": key.team.slug,
        "invitation": str(invitation.pk),
        "account": "ci",
        "server": str(server.pk),
    }
    token = new_api_client(alice).token
    for operation, mode in product(OPERATIONS, EXAMPLES):
        page = DOCUMENT["paths"][f"/api/v1/{operation.path}"][operation.method.lower()]
        if mode == "negative" and not (page["parameters"] or "requestBody" in page):
            continue  # Nothing in it can be wrong.
        with case(operation.method, operation.path, mode):
            answered = ask(operation, mode, token, there, key.team.name)
            # A token that was never let in would have tested nothing.
            assert set(answered) - {401, 429}
            if mode == "positive":
                assert set(answered) & {200, 201, 204}, answered
    assert not Window.objects.filter(subject__startswith="stranger:").exists()


def ask(
    operation: Any, mode: str, token: str | None, there: dict[str, str], team: str
) -> Counter[int]:
    """Send generated requests, and with them others for what is there. Count the statuses."""
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    conforms = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_headers_conformance,
        checks.response_schema_conformance,
    ]
    answered: Counter[int] = Counter()
    generated = schema()[f"/api/v1/{operation.path}"][operation.method]

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=EXAMPLES[mode],
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(one=generated.as_strategy(generation_mode=GenerationMode(mode)))
    def ask(one: Any) -> None:
        if mode == "negative" or not one.path_parameters:
            call(one)
        if one.path_parameters:  # A right request for what is made up would only find nothing.
            one.path_parameters = {name: there[name] for name in one.path_parameters}
            if "confirm_name" in one.query:
                one.query = {"confirm_name": team}
            call(one)

    def call(one: Any) -> None:
        with transaction.atomic():
            response = one.call(headers={"Authorization": f"Bearer {token}"})
            transaction.set_rollback(True)
        one.validate_response(response, checks=conforms)
        answered[response.status_code] += 1

    ask()
    return answered


def test_document_is_public(client: Client) -> None:
    response = client.get("/api/v1/openapi.json")
    assert response["Content-Type"] == "application/json"
    assert response.json() == DOCUMENT
    assert response["Cache-Control"] == "no-store"


def test_document_is_valid_openapi() -> None:
    schema().validate()
    operations = [page for path in DOCUMENT["paths"].values() for page in path.values()]
    names = [page["operationId"] for page in operations]
    assert len(set(names)) == len(names) == len(OPERATIONS)
    references = set(re.findall(r"#/components/schemas/(\w+)", str(DOCUMENT)))
    assert references == set(DOCUMENT["components"]["schemas"])


def test_document_has_scopes_and_errors_of_each_operation() -> None:
    for operation in OPERATIONS:
        page = DOCUMENT["paths"][f"/api/v1/{operation.path}"][operation.method.lower()]
        statuses = set(map(int, page["responses"]))
        assert statuses - set(BY_STATUS) == {operation.status}
        assert {400, 401, 403, 405, 413, 422, 429, 500, 503} <= statuses
        assert (415 in statuses) == bool(operation.body)
        assert (404 in statuses) == ("{" in operation.path)
        for scope in filter(None, [operation.scope, *operation.extra_scopes]):
            assert f"`{scope}`" in page["description"]


def test_every_scope_is_used() -> None:
    opening = {operation.scope for operation in OPERATIONS} - {None}
    assert opening | {scope for operation in OPERATIONS for scope in operation.extra_scopes} == set(
        Scope
    )


def test_path_parameters_match_the_document() -> None:
    for path, pages in DOCUMENT["paths"].items():
        for page in pages.values():
            named = {one["name"] for one in page["parameters"] if one["in"] == "path"}
            assert named == set(re.findall(r"\{(\w+)\}", path))
            assert named <= set(PATH_PARAMETERS)
