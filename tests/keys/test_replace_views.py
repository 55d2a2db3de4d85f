"""The banner of a key that a report deleted, and what the clicks on it do."""

import re
from collections.abc import Callable
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent
from keyportal.keys import banner, leaks, secret
from keyportal.keys.changes import disable
from keyportal.keys.models import ApiKey, Remnant
from keyportal.keys.reports import GITHUB, SOMEBODY, Found, Report
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.policy import NO_POLICY
from tests.keys.conftest import DELETING

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("deleting"), pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
SignIn = Callable[[User], Client]
TEAM = "/teams/u-8105f7322477/"
HTMX = {"HX-Request": "true"}
PAGES = ["keys/", "models/", "usage/", "members/", "audit/", "overview/", "keys/create/", "health/"]
SAID = ", and deleted <time"
MAKE = "Make one like it"


@pytest.fixture
def leak(issue: Issue) -> Callable[..., ApiKey]:
    """A key that was made, reported and so deleted; it is as it was."""

    def leak(owner: User, name: str = "nightly", reporter: str = SOMEBODY, **more: Any) -> ApiKey:
        key, text = issue(owner, name, actor=owner, **more)
        report(text, reporter)
        return key

    return leak


Leak = Callable[..., ApiKey]


def report(text: str, reporter: str = SOMEBODY) -> None:
    leaks.report(Report([Found(text)], reporter))


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def page_of(user: User, path: str = "overview/") -> str:
    return unescape(signed_in(user).get(f"{TEAM}{path}").content.decode())


def address(key: ApiKey, what: str) -> str:
    return f"{TEAM}keys/{key.public_id}/{what}/"


def nonce_in(page: str) -> str:
    """Of the form that makes a new key."""
    found = r'/replace/"(?:(?!</form>).)*name="nonce" value="([^"]+)"'
    ((nonce),) = re.findall(found, page, re.DOTALL)
    return str(nonce)


def rows(action: Action) -> list[str]:
    return [*AuditEvent.objects.filter(action=action).values_list("target", flat=True)]


@pytest.mark.parametrize("path", PAGES)
def test_every_page_of_the_team_says_so_until_it_is_replaced(
    ada: User, bob: User, leak: Leak, path: str
) -> None:
    assert SAID not in page_of(ada, path)
    key = leak(bob)
    shown = page_of(ada, path)
    assert SAID in shown
    assert "was reported as leaked by somebody who holds it" in shown
    assert f'action="{address(key, "replace")}"' in shown
    assert f'action="{address(key, "dismiss")}"' in shown
    assert f'href="{address(key, "receipt")}"' in shown
    signed_in(ada).post(address(key, "replace"))
    assert SAID not in page_of(ada, path)


def test_it_says_which_key_and_whose_and_who_reported_it(
    ada: User, bob: User, issue: Issue
) -> None:
    key, text = issue(bob, "R&D <nightly>")
    masked = key.masked
    report(text, GITHUB)
    page = signed_in(ada).get(f"{TEAM}overview/").content.decode()
    assert '<strong class="name">R&amp;D &lt;nightly&gt;</strong>' in page
    assert masked in page
    assert "was reported as leaked by GitHub" in page
    assert 'of <span class="name">bob</span>' in page
    assert 'of <span class="name">bob</span>' not in page_of(bob)


def test_those_who_may_act_on_it_see_it_and_nobody_else(
    alice: User, ada: User, bob: User, vera: User, charlie: User, leak: Leak
) -> None:
    carol = User.objects.create_user("carol")
    Membership.objects.create(team=bob.memberships.get().team, user=carol, role=Role.MEMBER)
    leak(bob)
    for person in (alice, ada, bob):
        assert SAID in page_of(person)
    for person in (vera, carol):
        assert SAID not in page_of(person)
    assert SAID not in signed_in(charlie).get("/teams/u-0000000000cc/overview/").content.decode()
    bob.memberships.update(role=Role.VIEWER)
    assert SAID not in page_of(bob)


def test_one_click_makes_a_key_like_it(bob: User, leak: Leak) -> None:
    key = leak(bob, tags=["ci"])
    answer = signed_in(bob).post(address(key, "replace"), {"nonce": nonce_in(page_of(bob))})
    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    page = unescape(answer.content.decode())
    (text,) = set(secret.keys_in(page))
    new = ApiKey.objects.get()
    assert secret.digest(text.encode()) == bytes(new.secrets.get().digest)
    assert (new.name, new.owner, new.tags) == ("nightly", bob, ["ci"])
    assert "<title>API key created" in page
    assert "It belongs to bob, and never expires." in page
    assert SAID not in page
    assert text not in page_of(bob, "keys/")


def test_htmx_gets_the_dialog_and_reloads_what_stands_behind_it(bob: User, leak: Leak) -> None:
    key = leak(bob)
    client = signed_in(bob)
    answer = client.post(address(key, "replace"), {"nonce": "n"}, headers=HTMX)
    assert answer.status_code == 200
    assert answer.content.decode().strip().startswith('<article id="created"')
    assert answer["HX-Trigger"] == "keys-changed"
    assert "no-store" in answer["Cache-Control"]
    shown = client.get(f"{TEAM}keys/leaks/", headers=HTMX)
    assert shown.content.decode().split() == ["<div", 'id="banner">', "</div>"]
    assert "HX-Request" in shown["Vary"]


def test_whoever_reloads_the_answer_gets_no_second_key(bob: User, leak: Leak) -> None:
    key, client = leak(bob), signed_in(bob)
    client.post(address(key, "replace"), {"nonce": "once"})
    for headers in ({}, HTMX):
        again = client.post(address(key, "replace"), {"nonce": "once"}, headers=headers)
        assert again.status_code == 409
        assert "Already created" in again.content.decode()
        assert not secret.keys_in(again.content.decode())
    other = client.post(address(key, "replace"), {"nonce": "another"})
    assert other.status_code == 404
    assert "was deleted at" in other.content.decode()
    assert ApiKey.objects.count() == 1


def test_the_question_tells_what_the_new_key_will_be(bob: User, leak: Leak) -> None:
    """For whoever comes to its address by signing in again."""
    key = leak(bob, expires_at=timezone.now() + timedelta(days=99))
    Team.objects.update(policy=DELETING._replace(longest_days=7))
    client = signed_in(bob)
    for headers in ({}, HTMX):
        answer = client.get(address(key, "replace"), headers=headers)
        assert answer.status_code == 200
        page = answer.content.decode()
        assert "All that Acme may call" in page
        assert f"{timezone.now() + timedelta(days=7):%Y-%m-%d}" in page
        assert 'id="confirm-replace"' in page
        assert SAID not in page  # It stands there anyway.
        assert page.strip().startswith("<article") == bool(headers)
    made = client.post(address(key, "replace")).content.decode()
    assert "which is as late as the policy allows now" in made


def test_lower_limits_are_told(bob: User, leak: Leak) -> None:
    key = leak(bob)
    Team.objects.update(key_limits={"requests_per_minute": 5})
    assert "Its limits are lower" in signed_in(bob).post(address(key, "replace")).content.decode()


def test_a_new_key_that_is_disabled_as_the_other_was_is_told_as_such(
    ada: User, bob: User, issue: Issue
) -> None:
    key, text = issue(bob, actor=bob)
    disable(key, actor=ada)
    report(text)
    client = signed_in(bob)
    assert "until an admin enables it" in client.get(address(key, "replace")).content.decode()
    assert "until an admin enables it" in client.post(address(key, "replace")).content.decode()


def test_who_may_make_no_such_key_is_told_why_and_makes_none_by_a_forged_form(
    bob: User, leak: Leak
) -> None:
    key = leak(bob)
    Team.objects.update(policy=DELETING._replace(models=("public/*",), creators="admin"))
    page = page_of(bob)
    assert SAID in page
    assert MAKE not in page
    assert "No key like it can be made now." in page
    assert "Keys of this team may call: public/*." in page
    for headers in ({}, HTMX):
        answer = signed_in(bob).post(address(key, "replace"), {"nonce": "n"}, headers=headers)
        assert answer.status_code == 422
        assert "In this team, keys are made by: Admin and above." in answer.content.decode()
    assert not ApiKey.objects.exists()
    assert Remnant.objects.exists()


def test_a_mark_that_no_form_of_ours_has_makes_nothing(bob: User, leak: Leak) -> None:
    key = leak(bob)
    answer = signed_in(bob).post(address(key, "replace"), {"nonce": "n" * 65})
    assert answer.status_code == 422
    assert not ApiKey.objects.exists()


def test_a_null_in_a_replayed_form_breaks_nothing(bob: User, leak: Leak) -> None:
    key = leak(bob)
    client = signed_in(bob)
    assert client.post(address(key, "replace"), {"nonce": "a\x00b"}).status_code == 422
    Remnant.objects.all().delete()
    assert client.post(address(key, "replace"), {"nonce": "a\x00b"}).status_code == 404


@pytest.mark.parametrize("headers", [{}, HTMX])
def test_a_click_puts_it_away(ada: User, bob: User, leak: Leak, headers: dict[str, str]) -> None:
    key, client = leak(bob), signed_in(bob)
    answer = client.post(address(key, "dismiss"), headers=headers)
    if headers:
        assert answer.status_code == 204
        assert "keys-changed" in answer["HX-Trigger"]
        assert "The notice about nightly is dismissed." in answer["HX-Trigger"]
    else:
        assert answer.status_code == 302
        assert answer["Location"] == f"{TEAM}keys/"
        page = client.get(answer["Location"]).content.decode()
        assert "The notice about nightly is dismissed." in page
    assert SAID not in page_of(ada)
    assert rows(Action.LEAK_DISMISSED) == [str(key)]
    assert client.post(address(key, "dismiss"), headers=headers).status_code == 404
    assert rows(Action.LEAK_DISMISSED) == [str(key)]


def test_all_are_put_away_at_once_but_nobody_elses(ada: User, bob: User, leak: Leak) -> None:
    for number in range(banner.DELETED_SHOWN + 2):
        leak(bob, f"b{number}")
    hers = leak(ada, "hers")
    page = page_of(bob)
    assert page.count(MAKE) == banner.DELETED_SHOWN
    assert "2 more of your keys were deleted because they leaked." in page
    answer = signed_in(bob).post(f"{TEAM}keys/leaks/dismiss/")
    assert answer.status_code == 302
    assert SAID not in page_of(bob)
    assert [remnant.public_id for remnant in Remnant.objects.all()] == [hers.public_id]
    assert len(rows(Action.LEAK_DISMISSED)) == banner.DELETED_SHOWN + 2
    answer = signed_in(ada).post(f"{TEAM}keys/leaks/dismiss/", headers=HTMX)
    assert answer.status_code == 204
    assert not Remnant.objects.exists()


@pytest.mark.parametrize("what", ["replace", "dismiss"])
def test_only_who_could_change_the_key_acts_on_what_is_left_of_it(
    bob: User, vera: User, charlie: User, other_team: Team, leak: Leak, what: str
) -> None:
    carol = User.objects.create_user("carol")
    Membership.objects.create(team=bob.memberships.get().team, user=carol, role=Role.MEMBER)
    key = leak(bob)
    theirs = f"/teams/{other_team.slug}/keys/{key.public_id}/{what}/"
    for person, path, status in (
        (vera, address(key, what), 403),
        (carol, address(key, what), 403),
        (charlie, address(key, what), 404),
        (charlie, theirs, 404),
    ):
        for headers in ({}, HTMX):
            answer = signed_in(person).post(path, {"nonce": "n"}, headers=headers)
            assert answer.status_code == status
            assert "nightly" not in answer.content.decode()
    bob.memberships.update(role=Role.VIEWER)
    assert signed_in(bob).post(address(key, what)).status_code == 403
    assert Remnant.objects.count() == 1
    assert not ApiKey.objects.exists()


@pytest.mark.parametrize("what", ["replace", "dismiss"])
def test_a_key_that_lives_or_was_deleted_by_somebody_has_nothing_left(
    bob: User, issue: Issue, what: str
) -> None:
    key, _ = issue(bob)
    client = signed_in(bob)
    assert client.post(address(key, what)).status_code == 404
    key.revoke(actor=bob)
    assert client.post(address(key, what)).status_code == 404
    assert not ApiKey.objects.exists()


def test_what_was_left_for_a_month_is_as_good_as_gone(bob: User, leak: Leak) -> None:
    key = leak(bob)
    Remnant.objects.update(reported_at=timezone.now() - timedelta(days=31))
    assert SAID not in page_of(bob)
    assert signed_in(bob).post(address(key, "replace")).status_code == 404
    assert not ApiKey.objects.exists()


def test_other_methods_are_refused(bob: User, leak: Leak) -> None:
    key, client = leak(bob), signed_in(bob)
    assert client.get(address(key, "dismiss")).status_code == 405
    assert client.get(f"{TEAM}keys/leaks/dismiss/").status_code == 405
    assert client.post(f"{TEAM}keys/leaks/").status_code == 405
    assert client.put(address(key, "replace")).status_code == 405
    assert Remnant.objects.exists()


def test_no_other_site_makes_a_key_in_ones_name(bob: User, leak: Leak) -> None:
    key, client = leak(bob), Client(enforce_csrf_checks=True)
    client.force_login(bob)
    for what in ("replace", "dismiss"):
        assert client.post(address(key, what)).status_code == 403
    assert Remnant.objects.exists()


def test_the_banner_by_itself_leaves_out_the_key_whose_page_it_is_for(
    bob: User, issue: Issue, leak: Leak
) -> None:
    leak(bob, "gone")
    Team.objects.update(policy=NO_POLICY)
    key, text = issue(bob, "here")
    report(text)
    page = page_of(bob, f"keys/{key.public_id}/")
    assert f'hx-get="{TEAM}keys/leaks/?beside={key.public_id}"' in page
    for path in (f"{TEAM}keys/leaks/?beside={key.public_id}", f"{TEAM}keys/{key.public_id}/"):
        shown = signed_in(bob).get(path, headers=HTMX if "leaks" in path else {}).content.decode()
        assert SAID in shown
        assert "Rotate it now" not in shown
    everywhere = signed_in(bob).get(f"{TEAM}keys/leaks/", headers=HTMX).content.decode()
    assert "Rotate it now" in everywhere
    evil = signed_in(bob).get(f'{TEAM}keys/leaks/?beside="><b>', headers=HTMX).content.decode()
    assert "<b>" not in evil


def test_the_receipt_tells_that_a_report_deleted_it(bob: User, leak: Leak) -> None:
    key = leak(bob, reporter=GITHUB)
    for path in ("receipt/", "", "delete/"):
        page = page_of(bob, f"keys/{key.public_id}/{path}")
        assert "by a report that it leaked, from GitHub" in page


def test_the_audit_shows_both_ends_of_it(ada: User, bob: User, leak: Leak) -> None:
    one, two = leak(bob, "one"), leak(bob, "two")
    signed_in(bob).post(address(one, "replace"))
    signed_in(bob).post(address(two, "dismiss"))
    page = page_of(ada, "audit/")
    assert "Leaked key replaced" in page
    assert "Notice of a leak dismissed" in page
