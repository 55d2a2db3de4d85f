"""Mail about a key: its recipients, and what the name of a key or a team can't do in it."""

from collections.abc import Callable

import pytest
from pytest_django import Settings

from keyportal.keys.models import ApiKey
from keyportal.notifications import emails
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.mail_server import MailServer

pytestmark = pytest.mark.any_database

Issue = Callable[..., tuple[ApiKey, str]]
EXPIRY = "notifications/email/expiry"


def send(people: list[User], **context: object) -> None:
    emails.send(
        emails.build_messages(EXPIRY, people, {"name": "ci", "has_expired": True, **context})
    )


def test_mail_goes_to_owner_or_else_to_admins(
    team: Team, alice: User, ada: User, bob: User, vera: User, charlie: User
) -> None:
    assert emails.owner_or_admins(team, bob.pk) == [bob]
    assert emails.owner_or_admins(team, None) == [alice, ada]
    assert emails.owner_or_admins(team, charlie.pk) == [alice, ada]
    assert emails.owner_and_admins(team, bob.pk) == [alice, ada, bob]


@pytest.mark.parametrize("loss", [{"email": ""}, {"is_active": False}])
def test_inactive_user_or_user_without_address_gets_no_mail(
    team: Team, alice: User, ada: User, bob: User, loss: dict[str, object]
) -> None:
    User.objects.filter(pk__in=[bob.pk, ada.pk]).update(**loss)
    assert emails.owner_or_admins(team, bob.pk) == [alice]


def test_former_member_and_other_teams_admin_get_no_mail(
    team: Team, other_team: Team, alice: User, bob: User
) -> None:
    Membership.objects.filter(team=team, user=bob).delete()
    Membership.objects.create(team=other_team, user=bob, role=Role.ADMIN)
    assert emails.owner_or_admins(team, bob.pk) == [alice]


def test_each_recipient_gets_a_separate_mail(
    mail_server: MailServer, alice: User, bob: User
) -> None:
    send([alice, bob])
    assert mail_server.recipients == ["alice@example.com", "bob@example.com"]
    for message in mail_server.received:
        assert message["Subject"] == '[Keyportal] API key "ci" has expired'
        assert message["Auto-Submitted"] == "auto-generated"
        assert message.get_content_type() == "text/plain"


@pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028", "\0"])
def test_name_cannot_add_header_or_paragraph(
    mail_server: MailServer, bob: User, line_break: str
) -> None:
    evil = line_break.join(["ci", "Bcc: eve@example.com", "", "Dear Bob, sign in at evil.example"])
    send([bob], name=evil, team=evil, owner=evil)
    (message,) = mail_server.received
    assert set(message) >= {"Subject", "To", "From"}
    assert message["Bcc"] is None
    line = "ci Bcc: eve@example.com Dear Bob, sign in at evil.example"
    assert message["Subject"] == f'[Keyportal] API key "{line}" has expired'
    lines = message.get_content().splitlines()
    assert not [line for line in lines if line.startswith(("Bcc", "Dear"))]


def test_name_is_not_escaped_as_html(mail_server: MailServer, bob: User) -> None:
    send([bob], name="<b>{{ team }} & co</b>")
    assert "<b>{{ team }} & co</b>" in mail_server.received[0]["Subject"]
    assert "<b>{{ team }} & co</b>" in mail_server.received[0].get_content()


def test_key_string_in_name_is_redacted(mail_server: MailServer, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob)
    send([bob], name=plaintext, team=plaintext)
    (message,) = mail_server.received
    assert plaintext[20:] not in message.as_string() + message.get_content()
    assert key.public_id in message.get_content()


def test_link_uses_public_url(settings: Settings, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    settings.PUBLIC_URL = "https://keys.example.com"
    page = f"https://keys.example.com/teams/u-8105f7322477/keys/{key.public_id}/"
    assert emails.key_url(key) == page
    settings.PUBLIC_URL = ""
    assert emails.key_url(key) == ""
