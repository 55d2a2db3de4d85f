"""The pages of management keys: for admins, shown once, with HTMX and without."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.api.models import MAX_PER_TEAM, ManagementKey
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.rules.permissions import MAX_ENTRIES as MOST_PATTERNS
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.models import Team, User
from tests.support.api_client import ApiClient, NewApiClient
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database

LIST = "/teams/u-8105f7322477/management-keys/"
CREATE = f"{LIST}create/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
FORM = {"name": "deploy", "scopes": ["keys:read", "keys:write"], "lifetime": "90"}


def shown_key(text: str) -> str:
    found = re.search(r'id="new-key"[^>]*>([^<]*)<', text)
    assert found, text
    return found[1]


def test_form_is_a_fragment_for_htmx_and_a_page_without(sign_in: SignIn, ada: User) -> None:
    client = sign_in(ada)
    page, fragment = client.get(CREATE), client.get(CREATE, headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<article id="create"')
    assert f'hx-post="{CREATE}"' in fragment.content.decode()
    assert f'hx-post="{CREATE}"' not in page.content.decode()
    for response in (page, fragment):
        assert "HX-Request" in response["Vary"]
        assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_admin_creates_a_management_key_and_sees_it_once(
    sign_in: SignIn, ada: User, headers: dict[str, str]
) -> None:
    client = sign_in(ada)
    made = client.post(CREATE, FORM, headers=headers)
    text = shown_key(made.content.decode())
    assert keystring.is_well_formed(text.encode(), ("mk-kp-",))
    key = ManagementKey.objects.get()
    assert (key.owner, key.scopes) == (ada, ["keys:read", "keys:write"])
    assert key.expires_at
    assert abs(key.expires_at - timezone.now() - timedelta(days=90)) < timedelta(minutes=1)
    assert ApiClient(text).get("self").status_code == 200
    listed = client.get(LIST).content.decode()
    assert key.masked in listed
    assert text not in listed
    event = AuditEvent.objects.get(action=Action.MANAGEMENT_KEY_CREATED)
    assert (event.actor, event.target, event.address) == ("ada", str(key), "127.0.0.1")


def test_permissions_are_saved(sign_in: SignIn, ada: User) -> None:
    bounds = {"models": "public/*, x", "endpoints": "chat", "networks": "10.0.0.0/8"}
    sign_in(ada).post(CREATE, {**FORM, **bounds, "lifetime": ""})
    key = ManagementKey.objects.get()
    assert key.permissions == Permissions(("public/*", "x"), Endpoints.CHAT, ("10.0.0.0/8",))
    assert key.expires_at is None
    assert "Restricted" in sign_in(ada).get(LIST).content.decode()


def test_maximum_number_of_models_and_networks_fits(sign_in: SignIn, ada: User) -> None:
    patterns = [f"{number:03}{'m' * 197}" for number in range(MOST_PATTERNS)]
    networks = [f"2001:db8:{number:x}:1111:2222:3333:4444:5555/128" for number in range(1, 101)]
    bounds = {"models": "\n".join(patterns), "networks": "\r\n".join(networks)}
    response = sign_in(ada).post(CREATE, {**FORM, **bounds})
    assert response.status_code == 200
    permissions = ManagementKey.objects.get().permissions
    assert (len(permissions.models), len(permissions.networks)) == (MOST_PATTERNS, 100)


def test_invalid_values_are_errors_in_the_form(sign_in: SignIn, ada: User) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"name": ""}, "Give the management key a name."),
        ({"name": "a\u202eb"}, "Use printable characters only."),
        ({"name": "mk-kp-7QmX2aPdk3Tz"}, "This contains an API key."),
        ({"scopes": []}, "Choose what it is for."),
        ({"scopes": ["keys:everything"]}, "Select a valid choice."),
        ({"lifetime": "36500"}, "Select a valid choice."),
        ({"models": "a*b*c*d*e"}, "more than three stars"),
        ({"networks": "10.0.0.1/8"}, "bits beyond its prefix"),
        ({"endpoints": "nothing"}, "Select a valid choice."),
        ({"nonce": "mk-kp-7QmX2aPdk3Tz"}, "This contains an API key."),
    ]
    client = sign_in(ada)
    for fields, message in cases:
        with own_case(fields, message):
            response = client.post(CREATE, {**FORM, **fields}, headers=HTMX)
            assert response.status_code == 422
            assert message in response.content.decode()
            assert "k3Tz" not in response.content.decode() or "name" in fields or "nonce" in fields
            assert not ManagementKey.objects.exists()


def test_taken_name_is_an_error_in_the_form(
    sign_in: SignIn, ada: User, new_api_client: NewApiClient
) -> None:
    new_api_client(ada)
    response = sign_in(ada).post(CREATE, FORM)
    assert response.status_code == 422
    assert "already exists" in response.content.decode()


def test_team_has_a_maximum_of_management_keys(
    sign_in: SignIn, ada: User, new_api_client: NewApiClient
) -> None:
    for number in range(MAX_PER_TEAM):
        new_api_client(ada, f"key-{number}")
    response = sign_in(ada).post(CREATE, FORM)
    assert response.status_code == 422
    assert f"at most {MAX_PER_TEAM} management keys" in response.content.decode()


def test_form_sent_twice_creates_one_management_key(sign_in: SignIn, ada: User) -> None:
    client = sign_in(ada)
    assert client.post(CREATE, {**FORM, "nonce": "once"}).status_code == 200
    again = client.post(CREATE, {**FORM, "name": "two", "nonce": "once"})
    assert again.status_code == 409
    assert "Already created" in again.content.decode()
    assert ManagementKey.objects.count() == 1


def test_management_key_is_deleted_after_confirmation(
    sign_in: SignIn, ada: User, new_api_client: NewApiClient
) -> None:
    program = new_api_client(ada)
    client, address = sign_in(ada), f"{LIST}{program.key.public_id}/delete/"
    dialog = client.get(address, headers=HTMX)
    assert dialog.content.lstrip().startswith(b'<article id="delete"')
    assert program.get("self").status_code == 200
    done = client.post(address, headers=HTMX)
    assert (done.status_code, done["HX-Trigger"]) == (204, "management-keys-changed, dialog-close")
    assert program.get("self").status_code == 401
    event = AuditEvent.objects.get(action=Action.MANAGEMENT_KEY_DELETED)
    assert (event.actor, event.target) == ("ada", str(program.key))
    assert client.post(address).status_code == 404


def test_without_javascript_it_redirects_to_the_list(
    sign_in: SignIn, ada: User, new_api_client: NewApiClient
) -> None:
    program = new_api_client(ada)
    client, address = sign_in(ada), f"{LIST}{program.key.public_id}/delete/"
    assert client.get(address).content.lstrip().startswith(b"<!doctype html>")
    response = client.post(address, follow=True)
    assert response.redirect_chain == [(LIST, 302)]
    assert "The management key deploy is deleted." in response.content.decode()


def test_list_marks_management_keys_that_do_not_work(
    sign_in: SignIn, ada: User, alice: User, new_api_client: NewApiClient
) -> None:
    new_api_client(ada, "over", expires_at=timezone.now() - timedelta(days=1))
    new_api_client(alice, "left")
    User.objects.filter(pk=alice.pk).update(is_active=False)
    text = sign_in(ada).get(LIST).content.decode()
    assert "Expired" in text
    assert "Owner left" in text


def test_empty_list_says_how_to_begin(sign_in: SignIn, ada: User) -> None:
    response = sign_in(ada).get(LIST, headers=HTMX)
    assert response.content.lstrip().startswith(b'<section id="table"')
    assert "No management keys yet." in response.content.decode()


def test_management_key_of_another_team_is_404(
    sign_in: SignIn, ada: User, charlie: User, other_team: Team, new_api_client: NewApiClient
) -> None:
    theirs = new_api_client(charlie, team=other_team)
    client = sign_in(ada)
    for public_id in (theirs.key.public_id, "00000000"):
        for response in (
            client.get(f"{LIST}{public_id}/delete/"),
            client.post(f"{LIST}{public_id}/delete/"),
        ):
            assert response.status_code == 404
            assert "Management key not found" in response.content.decode()
    assert theirs.get("self").status_code == 200


def test_audit_page_names_the_management_key(
    sign_in: SignIn, ada: User, new_api_client: NewApiClient
) -> None:
    program = new_api_client(ada)
    program.post("keys", {"name": "ci"})
    page = sign_in(ada).get("/teams/u-8105f7322477/audit/").content.decode()
    assert f"by management key {program.key}" in page


def test_only_those_with_the_role_see_the_menu_entry(sign_in: SignIn, ada: User, bob: User) -> None:
    for user, is_shown in ((ada, True), (bob, False)):
        page = sign_in(user).get("/teams/u-8105f7322477/keys/").content.decode()
        assert (LIST in page) is is_shown
