"""The profile: name, time zone, theme and mails; sessions; security history."""

import re
from datetime import timedelta

import pytest
from django.core import mail
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.leaks.emails import send_alarm
from keyportal.profile.sessions import device_name
from keyportal.teams.models import Membership, Role, Session, Team, User
from tests.conftest import PASSWORD
from tests.support.forms import form_data

pytestmark = [pytest.mark.any_database, pytest.mark.django_db]

PROFILE = "/profile/"
SESSIONS = "/profile/sessions/"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


def test_name_time_zone_theme_and_mails_are_saved(client: Client, bob: User) -> None:
    client.force_login(bob)
    changes = {"first_name": "Bob", "time_zone": "Asia/Tokyo", "theme": "dark"}
    form = form_data(client.get(PROFILE), **changes)
    del form["wants_alarms"]
    assert client.post(PROFILE, form)["Location"] == PROFILE
    bob.refresh_from_db()
    assert (bob.first_name, bob.time_zone, bob.theme) == ("Bob", "Asia/Tokyo", "dark")
    assert (bob.wants_reminders, bob.wants_alarms) == (True, False)
    page = client.get(PROFILE).content.decode()
    assert '<html lang="en" data-theme="dark" data-chosen data-time-zone="Asia/Tokyo">' in page
    assert AuditEvent.objects.filter(target="User bob: First name: none → Bob").exists()


def test_nothing_else_is_saved(client: Client, bob: User) -> None:
    """Attack: further fields in the form."""
    client.force_login(bob)
    more = {"is_superuser": "on", "email": "eve@example.com", "username": "alice"}
    client.post(PROFILE, form_data(client.get(PROFILE), **more))
    bob.refresh_from_db()
    assert (bob.is_superuser, bob.email, bob.username) == (False, "bob@example.com", "bob")


def test_what_is_wrong_is_told(client: Client, bob: User) -> None:
    client.force_login(bob)
    form = form_data(client.get(PROFILE))
    for change in (
        {"time_zone": "../../etc/passwd"},
        {"theme": "red"},
        {"first_name": "x" * 151},
        {"first_name": keystring.generate().text},
    ):
        answer = client.post(PROFILE, form | change)
        assert answer.status_code == 422, change
        assert 'class="error"' in answer.content.decode(), change


def test_pages_show_times_in_the_time_zone(client: Client, bob: User, team: Team) -> None:
    User.objects.filter(pk=bob.pk).update(time_zone="Asia/Tokyo")
    Membership.objects.filter(user=bob).update(created_at="2026-06-30T20:00:00Z")
    client.force_login(bob)
    page = client.get(f"/teams/{team.slug}/members/").content.decode()
    assert "2026-07-01 05:00 JST</time>" in page


def test_who_wants_no_alarms_gets_none(bob: User, alice: User, team: Team) -> None:
    texts: dict[str, object] = {"subject": "s", "explanation": "e", "advice": "a"}
    send_alarm(team, bob.pk, texts)
    User.objects.filter(pk=bob.pk).update(wants_alarms=False)
    send_alarm(team, bob.pk, texts)
    assert [message.to for message in mail.outbox] == [["bob@example.com"]]


def sign_in(user: User, **headers: str) -> Client:
    client = Client(headers=headers)
    client.post("/accounts/login/", {"login": user.username, "password": PASSWORD})
    return client


def test_sessions_show_device_and_address(bob: User, alice: User) -> None:
    client = sign_in(bob, user_agent=FIREFOX)
    sign_in(bob, user_agent="curl/8.9")
    sign_in(alice, user_agent="alices")
    page = client.get(SESSIONS).content.decode()
    assert "Firefox on Linux" in page
    assert ">curl</span>" in page
    assert "alices" not in page
    assert page.count("<code>127.0.0.1</code>") == 2
    assert not any(session.session_key in page for session in Session.objects.all())


def test_one_session_is_ended(bob: User) -> None:
    client, other, third = sign_in(bob), sign_in(bob, user_agent="lost"), sign_in(bob)
    page = client.get(SESSIONS).content.decode()
    session_id = re.search(r'value="(\w+)"><button[^>]*>End<span class="unseen"> lost', page)
    assert session_id
    client.post(SESSIONS, {"session": session_id[1]})
    assert other.get(SESSIONS).status_code == 302
    assert client.get(SESSIONS).status_code == third.get(SESSIONS).status_code == 200
    event = AuditEvent.objects.get(target="User bob: Sessions: 1 ended")
    assert event.actor == "bob"


def test_all_other_sessions_are_ended(bob: User, alice: User) -> None:
    client, others, hers = sign_in(bob), [sign_in(bob), sign_in(bob)], sign_in(alice)
    client.post(SESSIONS)
    assert [other.get(SESSIONS).status_code for other in others] == [302, 302]
    assert client.get(SESSIONS).status_code == hers.get(SESSIONS).status_code == 200


def test_nobody_ends_the_session_of_another(bob: User, alice: User) -> None:
    client, hers = sign_in(bob), sign_in(alice)
    sign_in(alice, user_agent="lost")
    page = hers.get(SESSIONS).content.decode()
    session_id = re.search(r'name="session" value="(\w+)"', page)
    assert session_id
    client.post(SESSIONS, {"session": session_id[1]})
    assert Session.objects.filter(user_id=alice.pk).count() == 2


def test_ending_sessions_asks_again(bob: User) -> None:
    client, other = sign_in(bob), sign_in(bob)
    session = client.session
    session["began_at"] -= 3600
    session.save()
    assert "Confirm that it is you" in client.get(SESSIONS).content.decode()
    assert client.post(SESSIONS)["Location"].startswith("/accounts/reauthenticate/")
    assert other.get(SESSIONS).status_code == 200


def test_ended_sessions_are_not_listed(bob: User) -> None:
    client = sign_in(bob)
    sign_in(bob, user_agent="former-browser")
    own = client.session.session_key
    Session.objects.exclude(pk=own).update(expire_date=timezone.now() - timedelta(seconds=1))
    assert "former-browser" not in client.get(SESSIONS).content.decode().partition("<tbody>")[2]


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0) Chrome/140 Safari/537 Edg/140", "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18 like Mac OS X) Safari/604", "Safari on iPhone"),
        ("curl/8.9", "curl"),
        ("", "Unknown browser"),
        ("<script>", "Unknown browser"),
    ],
)
def test_devices_have_names(user_agent: str, name: str) -> None:
    assert device_name(user_agent) == name


def test_history_has_sign_ins_and_changes_once(bob: User, alice: User, other_team: Team) -> None:
    Membership.objects.create(team=other_team, user=bob, role=Role.MEMBER)
    Client().post("/accounts/login/", {"login": "bob", "password": "wrong"})
    client = sign_in(bob)
    sign_in(alice)
    AuditEvent.objects.record(Action.USER_CHANGED, target="User bob: Email: a → b", actor=alice)
    AuditEvent.objects.record(Action.USER_CHANGED, target="User bobby: Email: c → d", actor=alice)
    body = client.get("/profile/history/").content.decode().partition("<tbody>")[2]
    texts = re.findall(r'data-label="What">(.*?)</th>', body)
    assert texts == [
        '<span class="name">Email: a → b</span>',
        '<span class="name">Signed in</span>',
        '<span class="name">Sign-in failed</span>',
    ]
    assert ">alice</td>" in body
    assert ">You</td>" in body


def test_history_has_nothing_of_a_deleted_user_with_the_name(client: Client) -> None:
    User.objects.create_user("eve").delete()
    eve = User.objects.create_user("eve")
    client.force_login(eve)
    page = client.get("/profile/history/").content.decode()
    assert page.count('data-label="What"') == 2  # The account, and this sign-in.
