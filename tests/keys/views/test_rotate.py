"""Rotating a key in the portal: the new secret is shown once, and the grace period holds."""

import re
from collections.abc import Callable

import pytest
from django.apps import apps
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import GracePeriod, live_secrets, rotate
from keyportal.teams.models import User

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def address(key: ApiKey, path: str = "rotate/") -> str:
    return f"{KEYS}{key.public_id}/{path}"


def shown_key(text: str) -> str:
    found = re.search(r'id="new-key"[^>]*>([^<]*)<', text)
    assert found
    return found[1]


def nonce(client: Client, key: ApiKey) -> str:
    text = client.get(address(key)).content.decode()
    found = re.search(r'name="nonce" value="([^"]+)"', text)
    assert found
    return found[1]


@pytest.mark.parametrize("headers", [HTMX, {}], ids=["htmx", "page"])
def test_new_key_string_is_shown_once_and_the_key_stays_the_same(
    sign_in: SignIn, bob: User, issue: Issue, headers: dict[str, str]
) -> None:
    key, old = issue(bob, "nightly")
    client = sign_in(bob)
    form = {"grace": "24h", "nonce": nonce(client, key)}
    response = client.post(address(key), form, headers=headers)
    text = response.content.decode()
    new = shown_key(text)
    assert response.status_code == 200
    assert keystring.is_well_formed(new.encode())
    assert keystring.find_public_id(new) == key.public_id
    assert new != old
    assert response["HX-Trigger"] == "keys-changed"
    assert "no-store" in response["Cache-Control"]
    assert f"Authorization: Bearer {new}" in text
    assert "works for another 24 hours" in text
    assert text.lstrip().startswith('<article id="rotated"' if headers else "<!doctype html>")
    digests = [keystring.digest(plaintext.encode()) for plaintext in (new, old)]
    assert [one.digest for one in live_secrets(key)] == digests
    event = AuditEvent.objects.for_key(key.public_id).get(action=Action.KEY_ROTATED)
    assert (event.actor, event.address) == ("bob", "127.0.0.1")


def test_key_string_is_stored_nowhere_after_a_rotation(
    sign_in: SignIn, bob: User, issue: Issue, caplog: pytest.LogCaptureFixture
) -> None:
    key, old = issue(bob)
    client = sign_in(bob)
    form = {"grace": "7d", "nonce": nonce(client, key)}
    new = shown_key(client.post(address(key), form, headers=HTMX).content.decode())
    tails = [plaintext.split(key.public_id)[1][:-4] for plaintext in (old, new)]
    later = [
        client.post(address(key), form, headers=HTMX),
        *(client.get(address(key, what)) for what in ("", "rotate/", "end-old/", "delete/")),
        client.get(KEYS),
    ]
    places = [response.content.decode() for response in later]
    places += [str(dict(client.session.items())), caplog.text]
    places += [str([*table.objects.values()]) for table in apps.get_models()]  # type: ignore[attr-defined]  # each has one
    for tail in tails:
        assert not [place for place in places if tail in place]


def test_form_sent_twice_rotates_once(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    form = {"grace": "now", "nonce": nonce(client, key)}
    new = shown_key(client.post(address(key), form).content.decode())
    for headers in (HTMX, {}):
        again = client.post(address(key), form, headers=headers)
        assert again.status_code == 409
        assert "Already rotated" in again.content.decode()
        assert new not in again.content.decode()
    (live,) = live_secrets(key)
    assert live.digest == keystring.digest(new.encode())


def test_nonce_cannot_be_used_for_another_key_or_a_new_one(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    first, _ = issue(bob, "first")
    second, _ = issue(bob, "second")
    client = sign_in(bob)
    form = {"grace": "now", "nonce": nonce(client, first)}
    assert client.post(address(first), form).status_code == 200
    assert client.post(address(second), form).status_code == 409
    assert client.post(f"{KEYS}create/", {"name": "third"} | form).status_code == 409
    assert ApiKey.objects.count() == 2


def test_third_secret_is_refused_in_the_dialog(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    mark = nonce(client, key)
    rotate(key, GracePeriod.WEEK, actor=bob)
    dialog = client.get(address(key), headers=HTMX)
    assert "This key has two valid secrets already" in dialog.content.decode()
    assert dialog.context["form"]["grace"].value() == GracePeriod.NOW
    response = client.post(address(key), {"grace": "1h", "nonce": mark}, headers=HTMX)
    assert response.status_code == 422
    assert "This key already has two secrets." in response.content.decode()
    assert key.secrets.count() == 2
    # The refusal left the form its one use.
    done = client.post(address(key), {"grace": "now", "nonce": mark}, headers=HTMX)
    assert done.status_code == 200
    assert key.secrets.count() == 1


def test_unknown_grace_period_is_refused(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    for grace in ("", "30d"):
        assert client.post(address(key), {"grace": grace}, headers=HTMX).status_code == 422
        assert key.secrets.count() == 1


def test_dialog_suggests_no_grace_period_for_a_leaked_key(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    assert client.get(address(key)).context["form"]["grace"].value() == GracePeriod.DAY
    ApiKey.objects.update(reported_at=timezone.now())
    assert client.get(address(key)).context["form"]["grace"].value() == GracePeriod.NOW


@pytest.mark.parametrize(
    ("times", "disabled_by", "warning"),
    [
        (["disabled_at"], "owner", "This key is disabled"),
        (["expires_at"], "", "This key has expired"),
        (["disabled_at", "reported_at"], "leak", "It works again"),
        (["disabled_at", "reported_at"], "owner", "This key is disabled"),
    ],
)
def test_dialog_says_whether_the_new_secret_will_work(
    sign_in: SignIn, bob: User, issue: Issue, times: list[str], disabled_by: str, warning: str
) -> None:
    key, _ = issue(bob)
    ApiKey.objects.update(**dict.fromkeys(times, timezone.now()), disabled_by=disabled_by)
    assert warning in sign_in(bob).get(address(key), headers=HTMX).content.decode()


def test_leaked_key_has_an_alert_on_its_page_and_a_banner_elsewhere(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    """What stands above every page stays there when the key is rotated in a dialog below it, and
    a second click would end the new secret."""
    key, _ = issue(bob, "nightly")
    other, _ = issue(bob, "weekly")
    ApiKey.objects.update(reported_at=timezone.now())
    client = sign_in(bob)
    page = client.get(address(key, "")).content.decode()
    assert page.count("Rotate it now") == 1
    assert f'action="{address(other)}"' in page
    assert "This key was reported as leaked" in page
    listed = client.get(KEYS).content.decode()
    assert listed.count("Rotate it now") == 2
    assert f'action="{address(key)}"' in listed


def test_old_secret_is_revoked_and_the_new_one_stays(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    Secret.objects.update(last_used_at="2026-11-23T22:45:10Z", last_used_address="10.1.2.3")
    rotate(key, GracePeriod.FIRST_USE, actor=bob)
    newest = key.secrets.latest("pk")
    client = sign_in(bob)
    page = client.get(address(key, "")).content.decode()
    assert "the first use of the new one" in page
    assert f'action="{address(key, "end-old/")}"' in page
    dialog = client.get(address(key, "end-old/"), headers=HTMX).content.decode()
    assert "10.1.2.3" in dialog
    assert client.post(address(key, "end-old/"), headers=HTMX).status_code == 204
    assert key.secrets.get() == newest
    assert (
        AuditEvent.objects.for_key(key.public_id)
        .filter(action=Action.KEY_OLD_SECRET_DELETED)
        .count()
        == 1
    )
    assert "/end-old/" not in client.get(address(key, "")).content.decode()


def test_without_an_old_secret_nothing_is_revoked(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    client = sign_in(bob)
    assert client.get(address(key, "end-old/")).status_code == 200
    assert client.post(address(key, "end-old/")).status_code == 302
    assert key.secrets.count() == 1
    assert not AuditEvent.objects.filter(action=Action.KEY_OLD_SECRET_DELETED).exists()
