"""Second factors: authenticator apps and recovery codes, from set-up to reset."""

import base64
import re
import secrets
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.contrib.auth.models import Permission
from django.core import mail
from django.test import Client
from pytest_django import Settings

from keyportal.audit.models import Action, AuditEvent
from keyportal.database.encryption import encrypt
from keyportal.teams.models import User
from keyportal.teams.sign_in import factors
from tests.conftest import PASSWORD
from tests.support.cases import own_case
from tests.support.commands import run
from tests.support.forms import form_data
from tests.support.totp import code

pytestmark = [pytest.mark.any_database, pytest.mark.django_db]

SIGN_IN = "/profile/sign-in/"
ADD = "/profile/sign-in/app/add/"
CODE = "/accounts/second-factor/"


@pytest.fixture(autouse=True)
def former_period_counts(settings: Settings) -> None:
    """The 30 seconds of a code may end within a test."""
    settings.MFA_TOTP_TOLERANCE = 1


def set_up(client: Client, user: User) -> tuple[str, list[str]]:
    """Store an app for a user who is signed in; its secret and the recovery codes."""
    secret, codes = base64.b32encode(secrets.token_bytes(20)).decode(), ["12345678", "87654321"]
    for kind, data in (
        (Authenticator.Type.TOTP, {"secret": encrypt(secret)}),
        (Authenticator.Type.RECOVERY_CODES, {"migrated_codes": [*map(encrypt, codes)]}),
    ):
        Authenticator.objects.create(user=user, type=kind, data=data)
    client.force_login(user)
    return secret, codes


def add_on_the_page(client: Client, user: User) -> tuple[str, list[str]]:
    client.force_login(user)
    page = client.get(ADD)
    secret = re.search(r'id="secret"[^>]*>(\w+)<', page.content.decode())[1]  # type: ignore[index]
    answer = client.post(ADD, form_data(page, code=code(secret)), follow=True)
    assert answer.redirect_chain == [("/profile/sign-in/recovery-codes/", 302)]
    codes = re.findall(r"\b\d{8}\b", answer.content.decode())
    assert len(codes) == 10
    return secret, codes


def enter_password(login: str) -> Client:
    client = Client()
    answer = client.post("/accounts/login/", {"login": login, "password": PASSWORD})
    assert answer["Location"] == CODE
    return client


def enter_code(client: Client, text: str) -> Any:
    return client.post(CODE, form_data(client.get(CODE), code=text))


def is_signed_in(client: Client) -> bool:
    return bool(client.get("/").status_code == 302 and "login" not in client.get("/")["Location"])


def test_the_password_is_not_enough(client: Client, alice: User) -> None:
    secret, _ = add_on_the_page(client, alice)
    stranger = enter_password("alice")
    assert not is_signed_in(stranger)
    assert "is wrong" in enter_code(stranger, "wrong0").content.decode()
    assert not is_signed_in(stranger)
    assert enter_code(stranger, code(secret)).status_code == 302
    assert is_signed_in(stranger)


def test_a_code_works_once_on_all_workers(client: Client, alice: User) -> None:
    """Attack: somebody looks over the shoulder. What was used is in the shared database."""
    secret, _ = set_up(client, alice)
    first, second = enter_password("alice"), enter_password("alice")
    text = code(secret)  # The next one works too, from the end of its 30 seconds.
    assert enter_code(first, text).status_code == 302
    assert "used already" in enter_code(second, text).content.decode()
    assert not is_signed_in(second)


def test_a_code_of_the_period_before_is_refused(
    client: Client, alice: User, settings: Settings
) -> None:
    secret, _ = set_up(client, alice)
    settings.MFA_TOTP_TOLERANCE = 0  # As it is shipped.
    assert enter_code(enter_password("alice"), code(secret, periods_ago=1)).status_code == 200


def test_a_recovery_code_works_once_and_is_shown_once(client: Client, alice: User) -> None:
    _, codes = add_on_the_page(client, alice)
    page = client.get("/profile/sign-in/recovery-codes/").content.decode()
    assert not any(text in page for text in codes)
    assert enter_code(enter_password("alice"), codes[0]).status_code == 302
    assert enter_code(enter_password("alice"), codes[0]).status_code == 200
    assert "You have 9 unused codes" in client.get(SIGN_IN).content.decode()
    assert AuditEvent.objects.filter(target="User alice: Recovery codes: one used").exists()


def test_new_recovery_codes_replace_those_from_before(client: Client, alice: User) -> None:
    _, codes = set_up(client, alice)
    path = "/profile/sign-in/recovery-codes/new/"
    answer = client.post(path, form_data(client.get(path)), follow=True)
    assert len(re.findall(r"\b\d{8}\b", answer.content.decode())) == 10
    assert enter_code(enter_password("alice"), codes[0]).status_code == 200


def test_secrets_are_encrypted_in_the_database(client: Client, alice: User) -> None:
    secret, _ = add_on_the_page(client, alice)
    rows = str(list(Authenticator.objects.values_list("data", flat=True)))
    assert secret not in rows
    assert rows.count("gAAAA") == 2  # Fernet, of the app and of the recovery codes.
    assert secret not in str(dict(client.session))


def test_without_the_key_of_the_database_a_code_is_refused_in_one_sentence(
    client: Client, alice: User, settings: Settings
) -> None:
    set_up(client, alice)
    settings.CREDENTIAL_KEYS = ("b25seS1mb3ItY2hlY2tzLW9ubHktZm9yLWNoZWNrcyE=",)
    answer = enter_code(enter_password("alice"), "123456")
    assert "read your second factor" in answer.content.decode()
    assert client.get(SIGN_IN).status_code == 200


def test_wrong_codes_are_limited_in_all_places_but_known_browsers(
    client: Client, alice: User
) -> None:
    """Attack: somebody who knows the password guesses, from everywhere."""
    secret, _ = set_up(client, alice)
    known = enter_password("alice")
    enter_code(known, code(secret))
    for number in range(5):
        answer = enter_code(enter_password("alice"), f"wrong{number}")
        assert "is wrong" in answer.content.decode()
    guesser = enter_password("alice")
    assert "Too many wrong codes" in enter_code(guesser, "wrong9").content.decode()
    failures = AuditEvent.objects.filter(action=Action.SIGN_IN_FAILED)
    assert {event.target for event in failures} == {"alice: wrong code of the second factor"}
    known.post("/accounts/logout/")
    known.post("/accounts/login/", {"login": "alice", "password": PASSWORD})
    assert "is wrong" in enter_code(known, "wrong9").content.decode()


def test_the_sign_in_of_the_admin_does_not_skip_the_factor(client: Client) -> None:
    olga = User.objects.create_superuser("olga", "olga@example.com", PASSWORD)
    set_up(client, olga)
    operator = Client()
    entrance = operator.get("/admin/", follow=True)
    assert entrance.redirect_chain[-1][0].startswith("/accounts/login/")
    answer = operator.post("/admin/login/", {"username": "olga", "password": PASSWORD})
    assert answer.status_code == 302  # To the portal's page, without a look at the password.
    operator.post("/accounts/login/?next=/admin/", {"login": "olga", "password": PASSWORD})
    assert operator.get("/admin/")["Location"].startswith("/admin/login/")


def test_the_second_factor_is_asked_after_a_password_reset(client: Client, alice: User) -> None:
    set_up(client, alice)
    mail.outbox.clear()
    stranger = Client()
    stranger.post("/accounts/password/reset/", {"email": alice.email})
    link = re.search(r"http://\S+(/accounts/password/reset/key/\S+)", str(mail.outbox[0].body))[1]  # type: ignore[index]
    form = stranger.get(link, follow=True)
    new = {"password1": "another-horse-battery", "password2": "another-horse-battery"}
    stranger.post(form.redirect_chain[-1][0], form_data(form, **new))
    answer = stranger.post(
        "/accounts/login/", {"login": "alice", "password": "another-horse-battery"}
    )
    assert answer["Location"] == CODE


def test_removing_the_app_asks_again_and_tells_by_mail(client: Client, alice: User) -> None:
    add_on_the_page(client, alice)
    session = client.session
    session["began_at"] -= 3600
    session.save()
    path = "/profile/sign-in/app/remove/"
    for answer in (client.get(path), client.post(path)):
        assert answer["Location"].startswith("/accounts/reauthenticate/?next=")
    assert Authenticator.objects.filter(user=alice).count() == 2
    client.post(answer["Location"], {"password": PASSWORD, "next": path})
    mail.outbox.clear()
    assert client.post(path, form_data(client.get(path))).status_code == 302
    assert not Authenticator.objects.filter(user=alice).exists()
    (message,) = mail.outbox
    assert message.to == ["alice@example.com"]
    assert message.subject == "[Keyportal] Authenticator app removed"
    assert "127.0.0.1" in message.body
    texts = [event.target for event in AuditEvent.objects.filter(actor="alice")]
    assert "User alice: Authenticator app: removed" in texts
    assert "User alice: Recovery codes: removed" in texts


def test_a_code_confirms_too(client: Client, alice: User) -> None:
    secret, _ = set_up(client, alice)
    session = client.session
    session["began_at"] -= 3600
    session.save()
    path = "/accounts/reauthenticate/code/?next=/profile/sign-in/app/remove/"
    answer = client.post(path, form_data(client.get(path), code=code(secret)))
    assert answer["Location"] == "/profile/sign-in/app/remove/"
    assert client.get("/profile/sign-in/app/remove/").status_code == 200


def assert_was_reset(client: Client, user: User) -> None:
    assert not Authenticator.objects.filter(user=user).exists()
    assert not is_signed_in(client)
    assert mail.outbox[-1].to == [user.email]
    assert mail.outbox[-1].subject == "[Keyportal] Your second factor was removed"
    assert (
        Client()
        .post("/accounts/login/", {"login": user.username, "password": PASSWORD})["Location"]
        .startswith("/")
    )


def test_operators_reset_a_lost_factor_in_the_admin(client: Client, bob: User) -> None:
    set_up(client, bob)
    operator = Client()
    operator.force_login(User.objects.create_superuser("olga", password=PASSWORD))
    form = {"action": "reset_second_factor", "_selected_action": bob.pk}
    operator.post("/admin/teams/user/", form)
    assert_was_reset(client, bob)
    event = AuditEvent.objects.get(target="User bob: Authenticator app: removed")
    assert event.actor == "olga"


def test_operators_reset_a_lost_factor_with_a_command(client: Client, bob: User) -> None:
    set_up(client, bob)
    run("resetfactors", "bob")
    assert_was_reset(client, bob)
    event = AuditEvent.objects.get(target="User bob: Authenticator app: removed")
    assert (event.actor, event.origin) == ("", "command line")


def test_staff_users_reset_no_factor_of_other_operators(client: Client) -> None:
    olga = User.objects.create_superuser("olga", "olga@example.com", PASSWORD)
    set_up(client, olga)
    helper = User.objects.create_user("helper", is_staff=True)
    helper.user_permissions.set(
        Permission.objects.filter(codename__in=["change_user", "view_user"])
    )
    staff = Client()
    staff.force_login(helper)
    form = {"action": "reset_second_factor", "_selected_action": olga.pk}
    page = staff.post("/admin/teams/user/", form, follow=True)
    assert "You may not change olga" in page.content.decode()
    assert Authenticator.objects.filter(user=olga).count() == 2


def test_factors_are_no_rows_of_the_admin(client: Client) -> None:
    client.force_login(User.objects.create_superuser("olga", password=PASSWORD))
    assert client.get("/admin/mfa/authenticator/").status_code == 404


def test_reset_of_a_person_without_an_address_sends_no_mail(client: Client, bob: User) -> None:
    bob.email = ""
    bob.save(update_fields=["email"])
    factors.reset(bob)
    assert not mail.outbox


def test_a_passkey_that_cannot_be_read_is_refused(client: Client, alice: User) -> None:
    for credential in (
        "",
        "{",
        "[]",
        "7",
        '"x"',
        "{}",
        '{"response": 1}',
        '{"response": {"userHandle": 1}}',
        '{"id": "AA", "rawId": "AA", "type": "public-key", "response": {"userHandle": "AA"}}',
        '{"id": "AA", "type": "public-key", "response": {"userHandle": "MQ", "signature": "AA"}}',
    ):
        with own_case(credential):
            for path in (
                "/accounts/passkey/",
                "/accounts/reauthenticate/passkey/",
                f"{SIGN_IN}passkeys/add/",
            ):
                assert client.post(path, {"credential": credential}).status_code in {200, 302}, path
                client.force_login(alice)
