"""A form whose values were changed meanwhile saves nothing: it is shown again, with the current
values and what was changed."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import AuditEvent
from keyportal.keys.changes import Changes, change_key, disable
from keyportal.keys.limits import set_key_limits
from keyportal.keys.models import ApiKey, KeyTemplate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.teams.policy import Policy
from tests.support.concurrency import run_concurrently
from tests.support.forms import form_data

SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]
HTMX = {"HX-Request": "true"}
NARROW = Permissions(("public/*",), Endpoints.CHAT, ("192.0.2.0/24",))
# Of each form: what is typed in it, what was changed meanwhile, and which of that it names.
FORMS: dict[str, tuple[dict[str, str], Callable[[ApiKey, User], object], str]] = {
    "keys/{key}/edit/": (
        {"description": "Nightly."},
        lambda key, ada: change_key(key, Changes(name="weekly", tags=["ci"]), actor=ada),
        "name, tags",
    ),
    "keys/{key}/permissions/": (
        {"endpoints": "embeddings"},
        lambda key, ada: change_key(key, Changes(permissions=NARROW), actor=ada),
        "models, endpoints, allowed networks",
    ),
    "keys/{key}/expiry/": (
        {"lifetime": "7"},
        lambda _key, _ada: ApiKey.objects.update(expires_at="2199-01-31T18:00:00Z"),
        "expiry",
    ),
    "keys/{key}/limits/": (
        {"tokens_per_day": "9"},
        lambda key, ada: set_key_limits(key, Limits(5), actor=ada),
        "requests per minute",
    ),
    "limits/": (
        {"tokens_per_day": "9"},
        lambda _key, _ada: Team.objects.update(key_limits=Limits(requests_per_day=5)),
        "requests per day",
    ),
    "policy/": (
        {"max_lifetime_days": "9"},
        lambda _key, _ada: Team.objects.update(
            policy=Policy(models=("public/*",), must_expire=True)
        ),
        "every key expires, models",
    ),
    "templates/{template}/change/": (
        {"models": "public/*"},
        lambda _key, _ada: KeyTemplate.objects.update(lifetime_days=9, endpoints="chat"),
        "lifetime in days, endpoints",
    ),
}
EDIT = "keys/{key}/edit/"
PATHS = pytest.mark.parametrize("path", FORMS)
# On SQLite, any transaction that writes has the only lock, so one form of a key and one of the team
# show it for all.
ON_POSTGRESQL = [
    pytest.param(path, marks=pytest.mark.postgresql)
    for path in FORMS
    if path not in (EDIT, "policy/")
]


@pytest.fixture
def key(bob: User, issue: Issue) -> ApiKey:
    return issue(bob, actor=bob)[0]


@pytest.fixture
def template(team: Team) -> KeyTemplate:
    return KeyTemplate.objects.create(team=team, name="CI job")


def address(path: str, key: ApiKey, template: KeyTemplate) -> str:
    filled = path.format(key=key.public_id, template=template.pk)
    return f"/teams/u-8105f7322477/{filled}"


def stored() -> list[Any]:
    return [
        *ApiKey.objects.values(),
        *KeyTemplate.objects.values(),
        *Team.objects.values(),
        AuditEvent.objects.count(),
    ]


@pytest.mark.any_database
@pytest.mark.parametrize(("path", "headers"), [*((path, {}) for path in FORMS), (EDIT, HTMX)])
def test_outdated_form_saves_nothing_and_is_shown_again(
    sign_in: SignIn,
    ada: User,
    key: ApiKey,
    template: KeyTemplate,
    path: str,
    headers: dict[str, str],
) -> None:
    typed, meanwhile, names = FORMS[path]
    client, url = sign_in(ada), address(path, key, template)
    opened = client.get(url, headers=headers)
    assert "Changed since you opened this page" not in opened.content.decode()
    meanwhile(key, ada)
    before = stored()
    # A form that is refused for another reason keeps its first version.
    invalid = form_data(opened, **dict.fromkeys(typed, "\x00"))
    refused = client.post(url, invalid, headers=headers)
    assert refused.status_code == 422
    response = client.post(url, form_data(refused, **typed), headers=headers)
    assert response.status_code == 409
    assert f"Changed since you opened this page: {names}." in response.content.decode()
    assert stored() == before
    # What it shows is what is stored now, as in a form that was just opened.
    today = client.get(url, headers=headers)
    fields = ("version", *today.context["form"].fields)
    assert {name: form_data(response).get(name) for name in fields} == {
        name: form_data(today).get(name) for name in fields
    }
    saved = client.post(url, form_data(response, **typed), headers=headers)
    assert saved.status_code in (204, 302)
    assert stored() != before


@pytest.mark.any_database
@PATHS
def test_change_of_a_field_outside_the_form_is_no_conflict(
    sign_in: SignIn, ada: User, key: ApiKey, template: KeyTemplate, path: str
) -> None:
    typed, _, _ = FORMS[path]
    client, url = sign_in(ada), address(path, key, template)
    opened = client.get(url)
    disable(key, actor=ada)
    Team.objects.update(max_keys=7)
    for other, (_, meanwhile, _) in FORMS.items():
        # The form of a template shows its policy's choices, and that of the expiry too.
        if other != path and other != "policy/":
            meanwhile(key, ada)
    assert client.post(url, form_data(opened, **typed)).status_code == 302


@pytest.mark.any_database
def test_unknown_version_is_outdated_and_none_is_not_compared(
    sign_in: SignIn, ada: User, key: ApiKey, template: KeyTemplate
) -> None:
    client, url = sign_in(ada), address(EDIT, key, template)
    before, opened = stored(), client.get(url)
    for version in ("x", "-", "0-0-0", "-".join(["00000000"] * 30)):
        form = form_data(opened, version=version, **FORMS[EDIT][0])
        assert client.post(url, form).status_code == 409, version
        assert stored() == before, version
    assert client.post(url, form_data(opened, version="", **FORMS[EDIT][0])).status_code == 302


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", [EDIT, "policy/", *ON_POSTGRESQL])
def test_one_of_several_concurrent_forms_is_saved(
    ada: User, key: ApiKey, template: KeyTemplate, path: str, settings: Settings
) -> None:
    # The count of a person's changes waits at most one second for its lock.
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"portal_write": None}
    url = address(path, key, template)
    clients = [Client() for _ in range(4)]
    clients[0].force_login(ada)
    form = form_data(clients[0].get(url), **FORMS[path][0])
    for client in clients[1:]:
        client.cookies = clients[0].cookies
    acts = [partial(client.post, url, form) for client in clients]
    responses = [cast("HttpResponse", response).status_code for response in run_concurrently(*acts)]
    assert sorted(responses) == [302, 409, 409, 409]
