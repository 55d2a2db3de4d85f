"""The pages of service accounts."""

from collections.abc import Callable

import pytest
from django.test import Client

from keyportal.audit.models import AuditEvent, DeletedUser
from keyportal.keys.changes import hand_over
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.service_accounts import changes
from tests.support.cases import own_case
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

ACCOUNTS = "/teams/u-8105f7322477/service-accounts/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def account(team: Team) -> User:
    return changes.create(team, "ci", "ci@example.com", actor=None)


def targets(team: Team) -> list[str]:
    return [event.target for event in AuditEvent.objects.for_team(team).order_by("pk")]


def test_admin_creates_one(sign_in: SignIn, ada: User, team: Team) -> None:
    client, form = sign_in(ada), {"name": "nightly", "contact": " ops@example.com"}
    response = client.post(f"{ACCOUNTS}create/", form, follow=True)
    assert response.redirect_chain == [(ACCOUNTS, 302)]
    assert "nightly@u-8105f7322477 is created." in response.content.decode()
    account = User.objects.get(username="nightly@u-8105f7322477")
    assert (account.service_team, account.contact, account.email) == (team, "ops@example.com", "")
    assert not account.has_usable_password()
    assert Membership.objects.get(user=account).role == Role.MEMBER
    created, joined = targets(team)[-2:]
    assert created.startswith("Service account nightly@u-8105f7322477: created, ")
    assert "Contact: none → ops@example.com" in created
    assert joined == "Member nightly@u-8105f7322477: created, Role: none → member"
    assert {event.actor for event in AuditEvent.objects.for_team(team)} == {"ada"}


def test_htmx_closes_the_dialog_and_reloads_the_list(sign_in: SignIn, ada: User) -> None:
    client, form = sign_in(ada), {"name": "nightly", "contact": "ops@example.com"}
    dialog = client.get(f"{ACCOUNTS}create/", headers=HTMX).content.decode()
    assert dialog.startswith('<article id="service-account-create">')
    response = client.post(f"{ACCOUNTS}create/", form, headers=HTMX)
    assert response.status_code == 204
    assert "service-accounts-changed" in response["HX-Trigger"]
    table = client.get(ACCOUNTS, headers=HTMX).content.decode()
    assert table.startswith('<section id="service-accounts"')
    assert "nightly@u-8105f7322477" in table


def test_mistakes_are_shown_at_their_field(sign_in: SignIn, ada: User, account: User) -> None:
    cases: list[tuple[str, str, str, str]] = [
        ("", "ops@example.com", "name", "Give the service account a name."),
        ("Night Build", "ops@example.com", "name", "Use lower-case letters"),
        ("x" * 41, "ops@example.com", "name", "at most 40 characters"),
        ("nightly", "", "contact", "Enter an e-mail address."),
        ("nightly", "nobody", "contact", "valid email address"),
        ("ci", "ops@example.com", "name", "Another user has this name already."),
    ]
    client = sign_in(ada)
    for name, contact, field, error in cases:
        with own_case(name, contact, field, error):
            response = client.post(f"{ACCOUNTS}create/", {"name": name, "contact": contact})
            assert response.status_code == 422
            assert error in str(response.context["form"].errors[field])
            assert User.objects.filter(service_team__isnull=False).count() == 1


def test_viewer_sees_the_list_and_no_buttons(sign_in: SignIn, vera: User, account: User) -> None:
    page = sign_in(vera).get(ACCOUNTS).content.decode()
    assert "ci@u-8105f7322477" in page
    assert "ci@example.com" in page
    assert f"{ACCOUNTS}create/" not in page
    assert f"{account.pk}/delete/" not in page


def test_members_page_tells_it_from_people(sign_in: SignIn, vera: User, account: User) -> None:
    page = sign_in(vera).get("/teams/u-8105f7322477/members/").content.decode()
    row = page.partition("ci@u-8105f7322477")[2].partition("</tr>")[0]
    assert "Service account" in row


def test_contact_is_changed(sign_in: SignIn, ada: User, account: User, team: Team) -> None:
    client, address = sign_in(ada), f"{ACCOUNTS}{account.pk}/change/"
    data = form_data(client.get(address), contact="new@example.com")
    assert client.post(address, data).status_code == 302
    account.refresh_from_db()
    assert account.contact == "new@example.com"
    assert targets(team)[-1] == (
        "Service account ci@u-8105f7322477: Contact: ci@example.com → new@example.com"
    )
    again = client.post(address, data | {"contact": "third@example.com"})
    assert again.status_code == 409
    assert "Changed since you opened this page: contact." in again.content.decode()


def test_one_that_owns_keys_is_not_deleted(
    sign_in: SignIn, ada: User, bob: User, account: User, issue: Issue
) -> None:
    key, _ = issue(account)
    client, address = sign_in(ada), f"{ACCOUNTS}{account.pk}/delete/"
    page = client.get(address).content.decode()
    assert "It still owns 1 key." in page
    assert "confirm-delete" not in page
    assert client.post(address).status_code == 409
    hand_over(key, bob, actor=ada)
    assert client.post(address, follow=True).redirect_chain == [(ACCOUNTS, 302)]
    assert not User.objects.filter(pk=account.pk).exists()
    assert DeletedUser.objects.get(user_id=account.pk).username == "ci@u-8105f7322477"
    assert client.post(address).status_code == 404


def test_people_and_accounts_of_other_teams_are_not_found(
    sign_in: SignIn, ada: User, bob: User, other_team: Team
) -> None:
    client = sign_in(ada)
    for page in ("change", "delete"):
        with own_case(page):
            elsewhere = changes.create(other_team, "ci", "ci@example.com", actor=None)
            for user in (elsewhere, bob):
                address = f"{ACCOUNTS}{user.pk}/{page}/"
                assert client.get(address).status_code == 404
                assert client.post(address, {"contact": "a@example.com"}).status_code == 404
            elsewhere.refresh_from_db()
            assert elsewhere.contact == "ci@example.com"
