"""What decides who may do what asks again for a password after 15 minutes."""

from urllib.parse import quote

import pytest
from django.test import Client

from keyportal.api.models import ManagementKey
from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.models import Upstream
from keyportal.teams.models import Membership, Role, Team, User
from tests.conftest import PASSWORD
from tests.support.cases import case, own_case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

CREATE = "/teams/u-8105f7322477/management-keys/create/"
POLICY = "/teams/u-8105f7322477/policy/"
SET = "/accounts/password/set/"
HTMX = {"HX-Request": "true"}
CONFIRM = f"/accounts/reauthenticate/?next={quote(CREATE, safe='')}"
QUARTER = 15 * 60


def age(client: Client, seconds: int = QUARTER + 1) -> Client:
    """As if the person had signed in so long ago."""
    session = client.session
    session["began_at"] -= seconds
    session.save()
    return client


def signed_in(client: Client, user: User, *, seconds: int = QUARTER + 1) -> Client:
    client.force_login(user)
    return age(client, seconds)


def confirm(client: Client, path: str, password: str = PASSWORD) -> str:
    """Send the form of the page that asks; where it leads, or empty."""
    answer = client.post(path, form_data(client.get(path), password=password))
    return str(answer.headers.get("Location", ""))


def test_a_recent_sign_in_is_enough(client: Client, alice: User) -> None:
    assert signed_in(client, alice, seconds=QUARTER - 60).get(CREATE).status_code == 200


def test_the_page_opens_after_the_password(client: Client, alice: User) -> None:
    answer = signed_in(client, alice).get(CREATE)
    assert (answer.status_code, answer["Location"]) == (302, CONFIRM)
    assert confirm(client, CONFIRM) == CREATE
    form = form_data(client.get(CREATE), name="ci", scopes=["keys:read"])
    assert client.post(CREATE, form).status_code == 200
    assert ManagementKey.objects.get().name == "ci"


def test_the_confirmation_ends_after_15_minutes(client: Client, alice: User) -> None:
    signed_in(client, alice)
    confirm(client, CONFIRM)
    session = client.session
    session["account_authentication_methods"] = [
        record | {"at": record["at"] - QUARTER - 1}
        for record in session["account_authentication_methods"]
    ]
    session.save()
    assert client.get(CREATE).status_code == 302


def test_a_dialog_gets_the_address_of_the_page_that_asks(client: Client, alice: User) -> None:
    answer = signed_in(client, alice).get(CREATE, headers=HTMX)
    assert (answer.status_code, answer["HX-Redirect"], answer.content) == (200, CONFIRM, b"")


def test_a_form_is_not_sent_again(client: Client, alice: User) -> None:
    """Its values would have to be stored in the session."""
    cases: list[dict[str, str]] = [{}, HTMX]
    for headers in cases:
        with own_case(headers):
            client.force_login(alice)
            form = form_data(client.get(CREATE), name="secret plan", scopes=["keys:read"])
            answer = age(client).post(CREATE, form, headers=headers)
            assert (answer.headers.get("Location") or answer["HX-Redirect"]) == CONFIRM
            assert "secret plan" not in str(dict(client.session))
            assert "Nothing is changed yet" in client.get(CONFIRM).content.decode()
            assert confirm(client, CONFIRM) == CREATE
            assert not ManagementKey.objects.exists()


def test_the_policy_can_be_read(client: Client, alice: User, team: Team) -> None:
    page = signed_in(client, alice).get(POLICY).content.decode()
    assert "Confirm that it is you" in page
    assert ">Save</button>" not in page
    answer = client.post(POLICY, form_data(client.get(POLICY), max_lifetime_days="9"))
    assert answer["Location"].startswith("/accounts/reauthenticate/")
    team.refresh_from_db()
    assert team.policy.max_lifetime_days is None
    assert confirm(client, answer["Location"]) == POLICY
    assert ">Save</button>" in client.get(POLICY).content.decode()


def test_who_may_not_open_the_page_is_not_asked(
    client: Client, alice: User, bob: User, charlie: User
) -> None:
    assert signed_in(client, charlie).get(CREATE).status_code == 404
    assert signed_in(client, bob).get(CREATE).status_code == 403


def test_wrong_passwords_are_limited_and_recorded(client: Client, alice: User) -> None:
    """Attack: someone at an open session guesses the password here."""
    signed_in(client, alice)
    for _ in range(5):
        assert confirm(client, CONFIRM, "wrong") == ""
    page = client.post(CONFIRM, {"password": PASSWORD}).content.decode()
    assert "Too many failed attempts" in page
    assert client.get(CREATE).status_code == 302
    events = AuditEvent.objects.filter(action=Action.SIGN_IN_FAILED, target="alice")
    assert events.count() == 5


def test_the_confirmation_of_another_person_does_not_count(
    client: Client, alice: User, ada: User
) -> None:
    """Attack: someone confirms with an account of their own, in the same browser."""
    signed_in(client, ada)
    confirm(client, CONFIRM)
    assert signed_in(client, alice).get(CREATE).status_code == 302


def test_nobody_is_led_to_another_host(client: Client, alice: User) -> None:
    signed_in(client, alice)
    assert confirm(client, "/accounts/reauthenticate/?next=https%3A%2F%2Fevil.example%2F") == "/"


def test_who_has_no_password_signs_in_again(client: Client, alice: User) -> None:
    alice.set_unusable_password()
    alice.save(update_fields=["password"])
    answer = signed_in(client, alice).get(CREATE)
    assert answer["Location"].startswith("/accounts/sign-in-again/?next=")
    page = client.get(answer["Location"])
    left = client.post("/accounts/logout/", form_data(page))
    assert left["Location"] == f"/accounts/login/?next={quote(CREATE, safe='')}"
    assert client.get(CREATE)["Location"].startswith("/accounts/login/")


def test_operators_confirm_too(client: Client, bob: User, team: Team) -> None:
    client.force_login(User.objects.create_superuser("olga", password=PASSWORD))
    upstream = Upstream.objects.create(name="vllm", base_url="http://127.0.0.1:9/v1")
    membership = Membership.objects.get(user=bob)
    pages = (
        "auth/group/add",
        "catalog/upstream/add",
        f"catalog/upstream/{upstream.pk}/change",
        f"catalog/upstream/{upstream.pk}/delete",
        f"teams/membership/{membership.pk}/change",
        f"teams/team/{team.pk}/change",
        f"teams/team/{team.pk}/delete",
        f"teams/user/{bob.pk}/change",
        f"teams/user/{bob.pk}/password",
    )
    paths = [f"/admin/{page}/" for page in pages]
    age(client)
    for path in paths:
        with case(path):
            for answer in (client.get(path), client.post(path, {"post": "yes"})):
                asking = f"/accounts/reauthenticate/?next={quote(path, safe='')}"
                assert answer["Location"] == asking
    assert confirm(client, asking) == paths[-1]
    for path in paths:
        with case(path):
            assert client.get(path).status_code == 200


def test_operators_confirm_before_an_action_of_a_list(
    client: Client, alice: User, bob: User
) -> None:
    operator = User.objects.create_superuser("olga", password=PASSWORD)
    signed_in(client, operator)
    assert client.get("/admin/teams/membership/").status_code == 200
    form = {"action": "delete_selected", "_selected_action": Membership.objects.get(user=bob).pk}
    answer = client.post("/admin/teams/membership/", form | {"post": "yes"})
    assert answer["Location"].startswith("/accounts/reauthenticate/")
    assert Membership.objects.filter(user=bob, role=Role.MEMBER).exists()


def test_first_password_is_not_set_at_an_open_session(client: Client, bob: User) -> None:
    """Attack: someone there sets one for a person who has none, and confirms with it."""
    bob.set_unusable_password()
    bob.save()
    signed_in(client, bob)
    form = {"password1": "blue-heron-42-lagoon", "password2": "blue-heron-42-lagoon"}
    for answer in (client.get(SET), client.post(SET, form)):
        assert answer["Location"].startswith("/accounts/sign-in-again/?next=")
    bob.refresh_from_db()
    assert not bob.has_usable_password()
