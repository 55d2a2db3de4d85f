"""Invite, send again and revoke, on the members page and by command."""

import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any
from urllib.parse import quote

import pytest
from django.core import mail
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from keyportal.audit.models import AuditEvent
from keyportal.keys import keystring
from keyportal.notifications.models import QueuedMail
from keyportal.people.forms import clean_emails
from keyportal.people.invitations import resend
from keyportal.people.models import Invitation
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.cases import own_case

pytestmark = pytest.mark.any_database
MEMBERS = "/teams/u-8105f7322477/members/"
INVITE = f"{MEMBERS}invite/"
SignIn = Callable[[User], Client]


def invite(client: Client, emails: str = "carol@example.com", **more: Any) -> Any:
    return client.post(INVITE, {"emails": emails, "role": "member", **more})


def pending() -> dict[str, str]:
    return dict(Invitation.objects.order_by("email").values_list("email", "role"))


def act(client: Client, invitation: Invitation, name: str) -> Any:
    return client.post(f"{MEMBERS}invitations/{invitation.pk}/{name}/")


def test_pasted_list_is_invited_and_the_links_are_shown(sign_in: SignIn, alice: User) -> None:
    client = sign_in(alice)
    assert client.get(INVITE).status_code == 200
    text = "Carol <Carol@example.com>, dan@example.com; erin@example.com\r\ncarol@example.com"
    page = invite(client, text, role="admin", note="Welcome!").content.decode()
    assert pending() == dict.fromkeys(
        ("carol@example.com", "dan@example.com", "erin@example.com"), "admin"
    )
    assert len(set(re.findall(r"http://127.0.0.1:8000/invitations/[^<]+", page))) == 3
    assert mail.outbox == []
    listed = client.get(MEMBERS).content.decode()
    assert listed.count(">Admin</td>") == 3


def test_wrong_form_invites_nobody(sign_in: SignIn, alice: User) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"emails": ""}, "Enter at least one e-mail address."),
        ({"emails": " , "}, "Enter at least one e-mail address."),
        ({"emails": "carol@example.com, dan"}, "dan is not an e-mail address."),
        ({"emails": "carol@example.com\nBcc: x@example.com"}, "Bcc: is not an e-mail address."),
        ({"emails": ",".join(f"p{n}@example.com" for n in range(51))}, "At most 50 addresses"),
        ({"role": "king"}, "Select a valid choice."),
        ({"note": "x" * 301}, "at most 300 characters"),
        ({"note": keystring.generate().text}, "contains an API key"),
    ]
    client = sign_in(alice)
    for data, error in cases:
        with own_case(data, error):
            answer = invite(client, **data)
            assert answer.status_code == 422
            assert error in answer.content.decode()
            assert pending() == {}


def test_admin_invites_no_owner(sign_in: SignIn, ada: User, alice: User, team: Team) -> None:
    client = sign_in(ada)
    assert 'value="owner"' not in client.get(INVITE).content.decode()
    assert invite(client, role="owner").status_code == 422
    owner = Invitation.objects.create(team=team, email="carol@example.com", role=Role.OWNER)
    # Neither by replacing, sending or revoking one of an owner.
    assert invite(client).status_code == 403
    for name in ("resend", "revoke"):
        assert act(client, owner, name).status_code == 403
    assert pending() == {"carol@example.com": "owner"}
    assert invite(sign_in(alice), "dan@example.com", role="owner").status_code == 200


def test_known_and_unknown_address_look_the_same(
    sign_in: SignIn, alice: User, bob: User, charlie: User, with_mail: None
) -> None:
    """Also one of a member: a name and an address can't be found to belong together."""
    client = sign_in(alice)
    answers = {}
    for name in ("bob", "charlie", "nobody"):
        email = f"{name}@example.com"
        answer = client.post(
            INVITE, {"emails": email, "role": "member"}, headers={"HX-Request": "true"}
        )
        row = rf"<tr>\s*<th[^>]*><span class=.name.>{email}.*?</tr>"
        shown = re.findall(row, _page(client), re.DOTALL)[0].replace(name, "X")
        text = re.sub(r"\d+|csrf[^>]*", "0", shown)
        answers[name] = (answer.status_code, answer["HX-Trigger"].replace(name, "X"), text)
    assert answers["bob"] == answers["charlie"] == answers["nobody"]
    # The link, and the time at which it ends, which may be of the next minute.
    bodies = [re.sub(r"invitations/\S+|\d+", "", str(message.body)) for message in mail.outbox]
    assert len(set(bodies)) == 1
    assert [message.to for message in mail.outbox] == [
        [f"{name}@example.com"] for name in ("bob", "charlie", "nobody")
    ]


def _page(client: Client) -> str:
    return client.get(MEMBERS).content.decode()


def test_mail_has_the_link_at_the_public_address(
    client: Client, alice: User, with_mail: None
) -> None:
    """Attack: the Host header of whoever invites sends the invited to another server."""
    client.force_login(alice)
    answer = client.post(
        INVITE, {"emails": "carol@example.com", "role": "viewer"}, headers={"Host": "localhost"}
    )
    assert (answer.status_code, answer["Location"]) == (302, MEMBERS)
    (message,) = mail.outbox
    assert message.to == ["carol@example.com"]
    assert 'alice invites you to the team "Acme"' in message.subject
    links = re.findall(r"https?://\S+", str(message.body))
    assert len(links) == 1
    assert links[0].startswith("https://keys.example.com/invitations/")
    assert "role Viewer" in message.body
    # The link is not shown: whoever invites must not have it.
    assert "/invitations/" not in client.get(MEMBERS).content.decode().replace(MEMBERS, "")


def test_no_mail_without_a_public_address(
    sign_in: SignIn, alice: User, with_mail: None, settings: Any
) -> None:
    settings.PUBLIC_URL = ""
    assert "http://testserver/invitations/" in invite(sign_in(alice)).content.decode()
    assert mail.outbox == []


def test_note_is_plain_text_on_one_line(
    client: Client, alice: User, team: Team, with_mail: None
) -> None:
    note = "Hi\r\nBcc: eve@example.com\n\n<b>bold</b> {{ url }}"
    Team.objects.update(name="Acme\r\nX-Evil: 1")
    client.force_login(alice)
    invite(client, note=note)
    (message,) = mail.outbox
    assert message.recipients() == ["carol@example.com"]
    assert "\n" not in message.subject
    assert 'writes: "Hi Bcc: eve@example.com <b>bold</b> {{ url }}"' in str(message.body)
    client.logout()
    link = re.findall(r"https?://keys.example.com(\S+)", str(message.body))[0]
    page = client.get(link).content.decode()
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    assert "<b>bold" not in page


def test_invited_again_the_former_link_ends(
    sign_in: SignIn, alice: User, invitation: Invitation
) -> None:
    nonce = invitation.nonce
    invite(sign_in(alice), role="viewer")
    row = Invitation.objects.get()
    assert (row.role, row.nonce == nonce) == ("viewer", False)


def test_button_says_whether_a_mail_is_sent(
    sign_in: SignIn, ada: User, invitation: Invitation, request: pytest.FixtureRequest
) -> None:
    client = sign_in(ada)
    assert ">Show link</button>" in client.get(MEMBERS).content.decode()
    request.getfixturevalue("with_mail")
    assert ">Send again</button>" in client.get(MEMBERS).content.decode()


def test_resend_keeps_the_link_and_starts_the_time_anew(
    sign_in: SignIn, ada: User, alice: User, invitation: Invitation, with_mail: None
) -> None:
    Invitation.objects.update(expires_at=timezone.now() - timedelta(days=1))
    client = sign_in(ada)
    assert ">Expired</span>" in client.get(MEMBERS).content.decode()
    assert act(client, invitation, "resend").status_code == 302
    row = Invitation.objects.get()
    assert (row.nonce, row.invited_by) == (invitation.nonce, ada)
    assert row.expires_at > timezone.now() + timedelta(days=6)
    assert len(mail.outbox) == 1
    assert ">Expired</span>" not in client.get(MEMBERS).content.decode()


def test_revoke_asks_and_deletes(sign_in: SignIn, alice: User, invitation: Invitation) -> None:
    client = sign_in(alice)
    page = client.get(f"{MEMBERS}invitations/{invitation.pk}/revoke/")
    assert "carol@example.com" in page.content.decode()
    assert act(client, invitation, "revoke").status_code == 302
    assert pending() == {}
    for name in ("revoke", "resend"):
        assert act(client, invitation, name).status_code == 404


def test_revoked_while_it_is_sent_again(alice: User, invitation: Invitation) -> None:
    Invitation.objects.all().delete()
    with pytest.raises(Invitation.DoesNotExist):
        resend(invitation, actor=alice, address=None)


def test_invitation_of_another_team_is_not_found(
    sign_in: SignIn, alice: User, other_team: Team
) -> None:
    other = Invitation.objects.create(team=other_team, email="x@example.com", role=Role.VIEWER)
    client = sign_in(alice)
    for name in ("revoke", "resend"):
        assert act(client, other, name).status_code == 404
    assert "x@example.com" not in client.get(MEMBERS).content.decode()
    assert Invitation.objects.count() == 1


def test_changes_are_in_the_audit(
    sign_in: SignIn, alice: User, team: Team, with_mail: None
) -> None:
    client = sign_in(alice)
    invite(client)
    (invitation,) = Invitation.objects.all()
    act(client, invitation, "resend")
    act(client, invitation, "revoke")
    events = AuditEvent.objects.for_team(team).filter(action__startswith="invitation:")
    assert [(event.action, event.target, event.actor) for event in events.order_by("pk")] == [
        ("invitation:sent", "carol@example.com as member", "alice"),
        ("invitation:sent", "carol@example.com as member", "alice"),
        ("invitation:revoked", "carol@example.com as member", "alice"),
    ]


def test_strangers_are_not_mailed_without_end(
    sign_in: SignIn, alice: User, with_mail: None, settings: Any
) -> None:
    """Each address five times an hour, and each team a hundred addresses; all or none."""
    settings.EMAIL_BACKEND = "keyportal.notifications.backend.OutboxBackend"
    settings.ACCOUNT_RATE_LIMITS = settings.ACCOUNT_RATE_LIMITS | {"invite": "10/h/key"}
    client = sign_in(alice)
    for _ in range(5):
        assert invite(client).status_code == 302
    refused = invite(client, "dan@example.com, carol@example.com")
    assert refused.status_code == 429
    assert "Nobody was invited" in refused.content.decode()
    (invitation,) = Invitation.objects.all()
    assert act(client, invitation, "resend").status_code == 429
    six = ",".join(f"p{number}@example.com" for number in range(6))
    assert invite(client, six).status_code == 429
    assert (QueuedMail.objects.count(), len(pending())) == (5, 1)
    assert invite(client, six.replace("p5@example.com", "")).status_code == 302
    assert invite(client, "z@example.com").status_code == 429
    assert (QueuedMail.objects.count(), len(pending())) == (10, 6)


def test_invitation_ends_with_the_right_to_give_its_role(
    sign_in: SignIn, alice: User, ada: User, team: Team
) -> None:
    """Attack: an admin who will be removed invites a second address of theirs before."""
    invite(sign_in(ada))
    assert ">Not valid</span>" not in sign_in(alice).get(MEMBERS).content.decode()
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    assert ">Not valid</span>" in sign_in(alice).get(MEMBERS).content.decode()
    with pytest.raises(PermissionDenied):
        resend(Invitation.objects.get(), actor=ada, address=None)
    act(sign_in(alice), Invitation.objects.get(), "resend")
    assert ">Not valid</span>" not in sign_in(alice).get(MEMBERS).content.decode()
    assert Invitation.objects.get().invited_by == alice
    alice.delete()
    assert pending() == {}


def test_command_prints_the_link_and_mails_nothing(team: Team, with_mail: None) -> None:
    out, notes = StringIO(), StringIO()
    call_command("invite", team.slug, "Carol@example.com", "--role=owner", stdout=out, stderr=notes)
    assert re.fullmatch(r"https://keys\.example\.com/invitations/\S+/\n", out.getvalue())
    assert "Invited carol@example.com as owner to u-8105f7322477." in notes.getvalue()
    assert pending() == {"carol@example.com": "owner"}
    assert mail.outbox == []


def test_command_without_a_public_address_links_this_machine(team: Team, settings: Any) -> None:
    settings.PUBLIC_URL = ""
    out = StringIO()
    call_command("invite", team.slug, "carol@example.com", stdout=out, stderr=StringIO())
    assert out.getvalue().startswith(f"http://127.0.0.1:{settings.PORT}/invitations/")


def test_command_refuses(team: Team) -> None:
    cases: list[tuple[list[str], str]] = [
        (["nowhere", "carol@example.com"], "no team with the slug nowhere"),
        (["u-8105f7322477", "carol"], "carol is not an e-mail address"),
        (["u-8105f7322477", "carol@example.com", "--role=king"], "invalid choice"),
    ]
    for arguments, message in cases:
        with own_case(arguments, message):
            with pytest.raises(CommandError, match=message):
                call_command("invite", *arguments, stdout=StringIO(), stderr=StringIO())
            assert pending() == {}


def test_pasted_lists_of_mail_programs_are_read() -> None:
    text = '"Roe, Jane" <Jane@Example.com>; joe@example.com\tjim@example.com\r\n<jil@example.com>'
    assert clean_emails(f"{text}, Joe Roe <joe@example.com>") == [
        "jane@example.com",
        "joe@example.com",
        "jim@example.com",
        "jil@example.com",
    ]


def test_power_over_the_team_asks_who_it_is(
    sign_in: SignIn, alice: User, ada: User, bob: User
) -> None:
    """Attack: someone at an open session makes another account an admin."""
    invite(sign_in(alice), role="admin")
    (invitation,) = Invitation.objects.all()
    client = sign_in(alice)
    session = client.session
    session["began_at"] -= 16 * 60
    session.save()
    resend_path = f"{MEMBERS}invitations/{invitation.pk}/resend/"
    requests: dict[str, dict[str, Any]] = {
        INVITE: {"emails": "eve@example.com", "role": "admin"},
        resend_path: {},
        f"{MEMBERS}{bob.pk}/role/": {"role": "owner"},
        f"{MEMBERS}{ada.pk}/remove/": {},
    }
    for path, data in requests.items():
        answer: Any = client.post(path, data)
        assert answer.url == f"/accounts/reauthenticate/?next={quote(path, safe='')}"
        # The page to which the confirmation leads.
        assert client.get(path).status_code == (302 if path == resend_path else 200)
    assert pending() == {"carol@example.com": "admin"}
    assert Membership.objects.filter(role__in=["admin", "owner"]).count() == 2
    assert invite(client, "dan@example.com").status_code == 200  # A member has no such power.
    assert client.post(f"{MEMBERS}{bob.pk}/role/", {"role": "viewer"}).status_code == 302
    assert Membership.objects.get(user=bob).role == Role.VIEWER
