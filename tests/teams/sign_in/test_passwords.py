"""Initial passwords must be changed, and passwords that are easily guessed are refused."""

from io import StringIO

import pytest
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client
from pytest_django import Settings

from keyportal.teams.models import Team, User
from tests.conftest import PASSWORD
from tests.support.cases import own_case
from tests.teams.test_sign_in import NEW_PASSWORD, change, post

pytestmark = pytest.mark.any_database

CHANGE = "/accounts/password/change/"


@pytest.fixture
def initial(bob: User) -> str:
    """Bob's password, which somebody else has made."""
    User.objects.filter(pk=bob.pk).update(must_change_password=True)
    return PASSWORD


def add_user(*arguments: str) -> str:
    output = StringIO()
    call_command("adduser", "erin", *arguments, stdout=output, stderr=StringIO())
    return output.getvalue().strip()


def test_no_page_opens_before_an_initial_password_is_changed(client: Client, db: None) -> None:
    password = add_user()
    assert post(client, "erin", password) == 302
    for path in ("/", "/teams/u-8105f7322477/keys/", "/admin/"):
        assert client.get(path)["Location"] == CHANGE
    assert client.post("/teams/u-8105f7322477/keys/create/")["Location"] == CHANGE
    assert "Choose a password of your own" in client.get(CHANGE).content.decode()
    assert "Your password is changed." in change(client, old=password)
    assert client.get("/").status_code == 200
    assert post(Client(), "erin", NEW_PASSWORD) == 302


def test_a_password_from_the_environment_is_initial_too(
    monkeypatch: pytest.MonkeyPatch, db: None
) -> None:
    monkeypatch.setenv("ERINS", "mellon-mellon-mellon")
    add_user("--password-env=ERINS")
    assert User.objects.get().must_change_password


def test_an_initial_password_is_not_changed_to_itself(client: Client, initial: str) -> None:
    post(client, "bob")
    assert "Choose another password" in change(client, old=initial, new=initial)
    assert client.get("/")["Location"] == CHANGE


def test_a_user_with_an_initial_password_can_sign_out(client: Client, initial: str) -> None:
    post(client, "bob")
    assert client.post("/accounts/logout/")["Location"].startswith("/accounts/login/")


def test_a_password_that_an_operator_sets_is_initial(client: Client, bob: User) -> None:
    root = User.objects.create_superuser("root", "root@example.com", PASSWORD)
    client.force_login(root)
    data = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true"}
    client.post(f"/admin/teams/user/{bob.pk}/password/", data)
    bob.refresh_from_db()
    assert bob.check_password(NEW_PASSWORD)
    assert bob.must_change_password
    inline = {"memberships-TOTAL_FORMS": "0", "memberships-INITIAL_FORMS": "0"}
    client.post("/admin/teams/user/add/", {"username": "erin", **data, **inline})
    assert User.objects.get(username="erin").must_change_password


def test_operators_set_their_own_password_on_the_page_that_asks_for_it(
    client: Client, db: None
) -> None:
    """Attack: someone at an operator's open session, who does not know the password."""
    root = User.objects.create_superuser("root", "root@example.com", PASSWORD)
    client.force_login(root)
    data = {"password1": NEW_PASSWORD, "password2": NEW_PASSWORD, "usable_password": "true"}
    for number in (str(root.pk), f"0{root.pk}"):
        client.post(f"/admin/teams/user/{number}/password/", data)
        root.refresh_from_db()
        assert root.check_password(PASSWORD)


def test_a_password_of_words_of_this_installation_is_refused(
    settings: Settings, team: Team, bob: User
) -> None:
    for password in (
        "keyportal1",
        "Keyportal-2026!",
        "keyportal20261234",
        "keyportalpassword1",
        "my.KEYPORTAL.key",
        "keys.corp-1",
        "engineering1",
        "u-8105f7322477",
        "roberta-99",
        "martinez!1",
        "bob123456",
        "bobbobbobbob",
    ):
        with own_case(password):
            settings.ALLOWED_HOSTS = ["keys.corp.example.com"]
            Team.objects.filter(pk=team.pk).update(name="Data Engineering")
            bob.first_name, bob.last_name = "Roberta", "Martinez"
            with pytest.raises(ValidationError):
                validate_password(password, bob)


@pytest.mark.parametrize(
    "password", [PASSWORD, "keyportal umbrella tractor", "bob-lantern-gravel", "a1b2c3d4e5f6"]
)
def test_a_password_with_enough_beside_such_words_is_accepted(bob: User, password: str) -> None:
    validate_password(password, bob)


def test_the_refusal_does_not_tell_which_teams_exist(bob: User, other_team: Team) -> None:
    """Attack: a user tries names of teams as new passwords."""
    Team.objects.filter(pk=other_team.pk).update(name="Skunkworks")
    validate_password("skunkworks1", bob)


def test_forms_and_commands_refuse_such_a_password(
    client: Client, bob: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.force_login(bob)
    assert "too easily guessed" in change(client, new="keyportal1")
    monkeypatch.setenv("WEAK", "keyportal1")
    with pytest.raises(CommandError, match="too easily guessed"):
        add_user("--password-env=WEAK")
