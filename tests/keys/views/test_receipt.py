"""The receipt of a deleted key: its last use, and requests since."""

from collections.abc import Callable
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Tombstone
from keyportal.audit.receipts import Receipt
from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import Team, User
from tests.support.clock import host

pytestmark = pytest.mark.any_database

KEYS = "/teams/u-8105f7322477/keys/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def address(key: ApiKey) -> str:
    return f"{KEYS}{key.public_id}/receipt/"


def deleted(key: ApiKey, by: User) -> ApiKey:
    Secret.objects.filter(key=key).update(
        last_used_at="2026-11-23T22:45:10Z",
        last_used_address="10.1.2.3",
        last_used_user_agent="<i>curl",
    )
    key.revoke(actor=by)
    return key


def test_receipt_shows_last_use_and_later_calls(
    sign_in: SignIn, vera: User, bob: User, issue: Issue
) -> None:
    key = deleted(issue(bob, "<b>nightly")[0], bob)
    Tombstone.objects.update(
        refused_requests=1234, last_refused_at="2026-11-24T01:02:03Z", ended_calls=7
    )
    client = sign_in(vera)
    page, fragment = client.get(address(key)), client.get(address(key), headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<section id="receipt"')
    for response in (page, fragment):
        text = response.content.decode()
        for expected in (
            *("&lt;b&gt;nightly was deleted", "by bob", "2026-11-23 22:45:10 UTC", "10.1.2.3"),
            *("&lt;i&gt;curl", "<strong>1,234</strong> requests", "2026-11-24 01:02:03 UTC"),
            "<strong>7</strong>",
        ):
            assert expected in text
        assert "HX-Request" in response["Vary"]
    assert b"data-dismiss" in fragment.content
    assert b"data-dismiss" not in page.content


def test_receipt_refreshes_itself_for_a_minute(sign_in: SignIn, bob: User, issue: Issue) -> None:
    with host(timedelta(hours=-2)):  # Whose clock is wrong.
        key = deleted(issue(bob)[0], bob)
    client = sign_in(bob)
    assert b'hx-trigger="every 2s"' in client.get(address(key), headers=HTMX).content
    with host(timedelta(hours=2)):
        assert b"hx-trigger" in client.get(address(key), headers=HTMX).content
    Tombstone.objects.update(deleted_at=timezone.now() - timedelta(seconds=61))
    with host(timedelta(hours=-2)):
        assert b"hx-trigger" not in client.get(address(key), headers=HTMX).content


def test_receipt_sums_up_all_secrets_of_a_key(team: Team, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    Secret.objects.update(last_used_at="2026-11-23T22:45:10Z", last_used_address="10.0.0.1")
    Secret.objects.create(
        key=key, digest=b"x" * 32, prefix="sk-kp-", last4="abcd", last_used_at="2026-11-24T00:00Z"
    )
    key.revoke(actor=None)
    Tombstone.objects.update(refused_requests=2, ended_calls=1)
    Tombstone.objects.filter(digest=b"x" * 32).update(last_refused_at="2026-11-24T01:00Z")
    receipt = Receipt.for_key(team, key.public_id)
    assert receipt
    assert receipt.last
    assert receipt.last.last_used_at
    assert receipt.last.last_used_at.isoformat() == "2026-11-24T00:00:00+00:00"
    assert (receipt.refused_requests, receipt.ended_calls, receipt.deleted_by) == (4, 2, "")
    assert receipt.last_refused_at


def test_receipt_of_an_unused_key(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    key.revoke(actor=None)
    text = sign_in(bob).get(address(key)).content.decode()
    assert "Never used" in text
    assert "by an operator" in text
    assert "<strong>0</strong> requests" in text


def test_existing_key_has_no_receipt(sign_in: SignIn, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    assert sign_in(bob).get(address(key)).status_code == 404


def test_receipt_is_404_for_another_team(
    sign_in: SignIn, bob: User, charlie: User, other_team: Team, issue: Issue
) -> None:
    key = deleted(issue(bob)[0], bob)
    client = sign_in(charlie)
    assert client.get(address(key)).status_code == 404
    assert client.get(f"/teams/{other_team.slug}/keys/{key.public_id}/receipt/").status_code == 404


def test_message_after_a_deletion_links_the_receipt(
    sign_in: SignIn, bob: User, issue: Issue
) -> None:
    key, _ = issue(bob, "<b>nightly")
    text = sign_in(bob).post(f"{KEYS}{key.public_id}/delete/", follow=True).content.decode()
    link = f'<a href="{address(key)}">See the receipt</a>'
    assert f"The key &lt;b&gt;nightly is deleted. {link}" in text


def test_audit_links_the_receipt(sign_in: SignIn, ada: User, issue: Issue) -> None:
    gone, _ = issue(ada, "gone")
    kept, _ = issue(ada, "kept")
    gone.revoke(actor=ada)
    text = sign_in(ada).get("/teams/u-8105f7322477/audit/").content.decode()
    assert address(gone) in text
    assert address(kept) not in text


def test_receipt_names_who_deleted_the_key_by_current_or_last_name(
    team: Team, bob: User, issue: Issue
) -> None:
    """Not as somebody else's doing who has the name now."""

    def deleted_by() -> str:
        receipt = Receipt.for_key(team, key.public_id)
        assert receipt
        return receipt.deleted_by

    key = deleted(issue(bob, "nightly")[0], bob)
    assert deleted_by() == "bob"
    User.objects.filter(pk=bob.pk).update(username="robert")
    assert deleted_by() == "robert"
    User.objects.get(pk=bob.pk).delete()
    User.objects.create_user("robert")
    assert deleted_by() == "robert (deleted)"
