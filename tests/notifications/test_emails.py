"""Mail about a key: who gets it, and what whoever names a key or a team can't do with it."""

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


def test_the_owner_alone_gets_it_or_else_the_admins(
    team: Team, alice: User, ada: User, bob: User, vera: User, charlie: User
) -> None:
    assert emails.owner_or_admins(team, bob.pk) == [bob]
    assert emails.owner_or_admins(team, None) == [alice, ada]
    assert emails.owner_or_admins(team, charlie.pk) == [alice, ada]
    assert emails.owner_and_admins(team, bob.pk) == [alice, ada, bob]


@pytest.mark.parametrize("loss", [{"email": ""}, {"is_active": False}])
def test_whoever_can_not_read_it_gets_none(
    team: Team, alice: User, ada: User, bob: User, loss: dict[str, object]
) -> None:
    User.objects.filter(pk__in=[bob.pk, ada.pk]).update(**loss)
    assert emails.owner_or_admins(team, bob.pk) == [alice]


def test_who_has_left_gets_none_and_no_admin_of_another_team_does(
    team: Team, other_team: Team, alice: User, bob: User
) -> None:
    Membership.objects.filter(team=team, user=bob).delete()
    Membership.objects.create(team=other_team, user=bob, role=Role.ADMIN)
    assert emails.owner_or_admins(team, bob.pk) == [alice]


def test_each_gets_a_letter_of_their_own(mail_server: MailServer, alice: User, bob: User) -> None:
    send([alice, bob])
    assert mail_server.recipients == ["alice@example.com", "bob@example.com"]
    for letter in mail_server.received:
        assert letter["Subject"] == '[Keyportal] API key "ci" has expired'
        assert letter["Auto-Submitted"] == "auto-generated"
        assert letter.get_content_type() == "text/plain"


@pytest.mark.parametrize("line_break", ["\r\n", "\n", "\r", "\x0b", "\x85", "\u2028", "\0"])
def test_a_name_is_no_header_and_no_paragraph(
    mail_server: MailServer, bob: User, line_break: str
) -> None:
    evil = line_break.join(["ci", "Bcc: eve@example.com", "", "Dear Bob, sign in at evil.example"])
    send([bob], name=evil, team=evil, owner=evil)
    (letter,) = mail_server.received
    assert set(letter) >= {"Subject", "To", "From"}
    assert letter["Bcc"] is None
    line = "ci Bcc: eve@example.com Dear Bob, sign in at evil.example"
    assert letter["Subject"] == f'[Keyportal] API key "{line}" has expired'
    lines = letter.get_content().splitlines()
    assert not [line for line in lines if line.startswith(("Bcc", "Dear"))]


def test_a_name_is_text_and_no_markup(mail_server: MailServer, bob: User) -> None:
    send([bob], name="<b>{{ team }} & co</b>")
    assert "<b>{{ team }} & co</b>" in mail_server.received[0]["Subject"]
    assert "<b>{{ team }} & co</b>" in mail_server.received[0].get_content()


def test_a_key_in_a_name_is_cut(mail_server: MailServer, bob: User, issue: Issue) -> None:
    key, plaintext = issue(bob)
    send([bob], name=plaintext, team=plaintext)
    (letter,) = mail_server.received
    assert plaintext[20:] not in letter.as_string() + letter.get_content()
    assert key.public_id in letter.get_content()


def test_a_link_leads_to_the_public_address(settings: Settings, bob: User, issue: Issue) -> None:
    key, _ = issue(bob)
    settings.PUBLIC_URL = "https://keys.example.com"
    page = f"https://keys.example.com/teams/u-8105f7322477/keys/{key.public_id}/"
    assert emails.key_url(key) == page
    settings.PUBLIC_URL = ""
    assert emails.key_url(key) == ""
