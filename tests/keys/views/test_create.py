"""Creating a key: the form, the one response with the key string, and errors."""

import re
from collections.abc import Callable

import pytest
from django.test import Client

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import ServedModel
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support.cases import case

pytestmark = pytest.mark.any_database

CREATE = "/teams/u-8105f7322477/keys/create/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def shown_key(text: str) -> str:
    """What stands in the element with the id `new-key`, and nothing else."""
    found = re.search(r'id="new-key"[^>]*>([^<]*)<', text)
    assert found
    return found[1]


def test_form_is_a_fragment_for_htmx_and_a_page_without(sign_in: SignIn, bob: User) -> None:
    client = sign_in(bob)
    page, fragment = client.get(CREATE), client.get(CREATE, headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<article id="create"')
    for response in (page, fragment):
        assert "HX-Request" in response["Vary"]
        assert "no-store" in response["Cache-Control"]
        assert 'placeholder="test-key"' in response.content.decode()
    # On a page of its own the form is posted as a page, so that its answer is one, too.
    assert f'hx-post="{CREATE}"' in fragment.content.decode()
    assert f'hx-post="{CREATE}"' not in page.content.decode()


def test_member_creates_a_key_and_sees_it_once(
    sign_in: SignIn, bob: User, model: ServedModel
) -> None:
    client = sign_in(bob)
    response = client.post(CREATE, {"name": "  nightly  "}, headers=HTMX)
    text, key = response.content.decode(), ApiKey.objects.get()
    plaintext = shown_key(text)
    assert response.status_code == 200
    assert (key.name, key.owner, key.team.slug) == ("nightly", bob, "u-8105f7322477")
    assert keystring.is_well_formed(plaintext.encode())
    assert key.secrets.get().digest == keystring.digest(plaintext.encode())
    assert text.lstrip().startswith('<article id="created"')
    assert response["HX-Trigger"] == "keys-changed"
    assert "no-store" in response["Cache-Control"]
    later = client.get("/teams/u-8105f7322477/keys/").content.decode()
    assert plaintext not in later
    assert plaintext not in str(dict(client.session.items()))
    assert AuditEvent.objects.get(action=Action.KEY_CREATED).actor == "bob"


def test_examples_contain_the_key_the_host_and_a_model_of_the_team(
    sign_in: SignIn, bob: User, model: ServedModel
) -> None:
    ServedModel.objects.create(name="a-model/of-nobody")
    text = sign_in(bob).post(CREATE, {"name": "nightly"}).content.decode()
    plaintext = shown_key(text)
    assert f"Authorization: Bearer {plaintext}" in text
    assert text.count(f'"{plaintext}"') == 2  # Python and JavaScript.
    assert "'http://127.0.0.1:8000/v1/chat/completions'" in text
    assert text.count('"u-8105f7322477/test"') == 3


def test_examples_use_the_request_host_if_no_address_is_configured(
    sign_in: SignIn, bob: User, settings: pytest.FixtureRequest
) -> None:
    settings.PUBLIC_URL = ""  # type: ignore[attr-defined]
    text = sign_in(bob).post(CREATE, {"name": "nightly"}).content.decode()
    assert "'http://testserver/v1/chat/completions'" in text
    assert "{MODEL}" in text
    assert "No model is available yet" in text


def test_without_javascript_the_new_key_is_shown_on_a_page(sign_in: SignIn, bob: User) -> None:
    response = sign_in(bob).post(CREATE, {"name": "nightly"})
    assert response.status_code == 200
    assert response.content.lstrip().startswith(b"<!doctype html>")
    assert keystring.is_well_formed(shown_key(response.content.decode()).encode())
    assert "no-store" in response["Cache-Control"]


def test_form_sent_twice_creates_one_key(sign_in: SignIn, bob: User) -> None:
    client = sign_in(bob)
    found = re.search(r'name="nonce" value="([^"]+)"', client.get(CREATE).content.decode())
    assert found
    form = {"name": "nightly", "nonce": found[1]}
    plaintext = shown_key(client.post(CREATE, form).content.decode())
    for name, headers in (("nightly", HTMX), ("another", {})):
        again = client.post(CREATE, form | {"name": name}, headers=headers)
        assert again.status_code == 409
        assert "Already created" in again.content.decode()
        assert plaintext not in again.content.decode()
    assert ApiKey.objects.count() == 1


def test_invalid_name_is_refused_in_the_dialog(sign_in: SignIn, bob: User, issue: Issue) -> None:
    issue(bob, "taken")
    client = sign_in(bob)
    for name, message in (
        ("", "Give the key a name."),
        ("   ", "Give the key a name."),
        ("x" * 65, "at most 64 characters"),
        ("a\u202eb", "printable characters"),
        ("a\u200bb", "printable characters"),
        ("taken", "A key with this name already exists in the team."),
    ):
        response = client.post(CREATE, {"name": name, "nonce": "n"}, headers=HTMX)
        text = response.content.decode()
        with case(name):
            assert response.status_code == 422
            assert text.lstrip().startswith('<article id="create"')
            assert message in text
            assert 'name="nonce" value="n"' in text
            assert ApiKey.objects.count() == 1


def test_longest_name_is_accepted(sign_in: SignIn, bob: User) -> None:
    sign_in(bob).post(CREATE, {"name": "é" * 64, "nonce": "n" * 64})
    assert ApiKey.objects.get().name == "é" * 64


def test_invalid_nonce_is_a_form_error(sign_in: SignIn, bob: User) -> None:
    response = sign_in(bob).post(CREATE, {"name": "nightly", "nonce": "n" * 65})
    assert response.status_code == 422
    assert "at most 64 characters" in response.content.decode()
    assert not ApiKey.objects.exists()


def test_markup_in_a_name_is_escaped(sign_in: SignIn, bob: User) -> None:
    response = sign_in(bob).post(CREATE, {"name": "<script>alert(1)</script>"}, headers=HTMX)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in response.content.decode()
    assert "<script" not in response.content.decode()


def test_key_limit_is_shown_in_the_dialog_and_enforced(
    sign_in: SignIn, bob: User, team: Team, issue: Issue
) -> None:
    team.max_keys = 1
    team.save(update_fields=["max_keys"])
    issue(bob)
    client, sentence = sign_in(bob), "This team has 1 of 1 API keys."
    assert sentence in client.get(CREATE, headers=HTMX).content.decode()
    refused = client.post(CREATE, {"name": "second"}, headers=HTMX)
    assert refused.status_code == 422
    assert refused.content.decode().count(sentence) == 1
    assert AuditEvent.objects.filter(action=Action.KEY_REFUSED_BY_LIMIT, actor="bob").count() == 1
    assert ApiKey.objects.count() == 1


def test_refusal_is_logged_in_one_line_with_its_reason(
    sign_in: SignIn, vera: User, caplog: pytest.LogCaptureFixture
) -> None:
    sign_in(vera).get(CREATE)
    (record,) = caplog.records
    assert record.exc_info is None
    assert CREATE in record.getMessage()
    assert "This needs the role Member" in record.getMessage()


def test_form_without_csrf_token_is_refused_with_an_explanation(bob: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(bob)
    response = client.post(CREATE, {"name": "mine"})
    assert response.status_code == 403
    assert "This page is out of date" in response.content.decode()
    assert not ApiKey.objects.exists()
