"""Deleting a key: the confirmation, the deletion, and who may not."""

from collections.abc import Callable

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import Team, User
from keyportal.usage.models import Call, UsageHour
from keyportal.usage.reports.periods import Step

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def address(key: ApiKey) -> str:
    return f"{KEYS}{key.public_id}/delete/"


def test_confirmation_shows_the_use_of_the_key(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob, "<b>nightly")
    Secret.objects.update(
        last_used_at="2026-11-23T22:45:10Z",
        last_used_address="10.1.2.3",
        last_used_user_agent="curl/8",
    )
    client = sign_in(bob)
    page, fragment = client.get(address(key)), client.get(address(key), headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<article id="delete"')
    for response in (page, fragment):
        text = response.content.decode()
        assert "&lt;b&gt;nightly" in text
        for expected in (key.masked, "2026-11-23 22:45 UTC", "10.1.2.3", "curl/8"):
            assert expected in text
        assert (
            "refused from their next request on, on every server, and running calls will be ended"
            in text
        )
        assert plaintext not in text
        assert "HX-Request" in response["Vary"]
    assert ApiKey.objects.exists()


def test_confirmation_for_an_unused_key(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    assert "<dd>Never</dd>" in sign_in(bob).get(address(key), headers=HTMX).content.decode()


def test_confirmation_shows_calls_of_the_last_day(
    sign_in: SignIn, bob: User, team: Team, issue: Issue
) -> None:
    key, _ = issue(bob)
    of_the_key = {"team_slug": team.slug, "public_id": key.public_id}
    this_hour = Step.HOUR.floor(timezone.now())
    UsageHour.objects.create(
        owner_id=7, start=this_hour, requests=1234, model="public/small", **of_the_key
    )
    Call.objects.create(
        owner_id=7,
        started_at=timezone.now(),
        address="192.0.2.7",
        user_agent="<i>curl",
        status=200,
        duration_ms=1,
        **of_the_key,
    )
    text = sign_in(bob).get(address(key), headers=HTMX).content.decode()
    for expected in ("1,234 calls</strong>", "public/small", "192.0.2.7", "&lt;i&gt;curl"):
        assert expected in text


def test_confirmation_says_if_there_were_no_calls(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    text = sign_in(bob).get(address(key), headers=HTMX).content.decode()
    assert "No calls used this key in the last 24 hours." in text


def test_member_deletes_their_own_key(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    response = sign_in(bob).post(address(key), headers=HTMX)
    assert response.status_code == 204
    assert response["HX-Trigger"] == "keys-changed, dialog-close"
    assert not ApiKey.objects.exists()
    event = AuditEvent.objects.get(action=Action.KEY_DELETED)
    assert (event.actor, event.address) == ("bob", "127.0.0.1")


def test_without_javascript_it_redirects_to_the_list(
    sign_in: SignIn, ada: User, bob: User, issue: Issue
) -> None:
    key, plaintext = issue(bob, "nightly")
    response = sign_in(ada).post(address(key), follow=True)
    assert response.redirect_chain == [(KEYS, 302)]
    assert "The key nightly is deleted." in response.content.decode()
    assert plaintext not in response.content.decode()
    assert not ApiKey.objects.exists()


def test_member_cannot_delete_keys_of_others(
    sign_in: SignIn, alice: User, bob: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    client = sign_in(bob)
    for response in (client.get(address(key)), client.post(address(key))):
        assert response.status_code == 403
        assert "belongs to someone else" in response.content.decode()
    assert ApiKey.objects.exists()


def test_viewer_is_refused_with_the_reason(
    sign_in: SignIn, alice: User, vera: User, issue: Issue
) -> None:
    key, _ = issue(alice)
    response = sign_in(vera).post(address(key))
    assert response.status_code == 403
    assert "belongs to someone else" in response.content.decode()
    assert ApiKey.objects.exists()


def test_key_of_another_team_is_404(
    sign_in: SignIn, alice: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    foreign, _ = issue(charlie, team=other_team)
    response = sign_in(alice).post(address(foreign))
    assert response.status_code == 404
    assert "Key not found" in response.content.decode()
    assert ApiKey.objects.exists()


def test_deleting_a_deleted_key_shows_a_message(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    gone = address(key)
    key.revoke(actor=bob)
    client = sign_in(bob)
    page, fragment = client.get(gone), client.post(gone, headers=HTMX)
    assert (page.status_code, fragment.status_code) == (404, 404)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<article id="gone"')
    assert fragment["HX-Trigger"] == "keys-changed"
