"""Keys of service accounts: who creates them, the policy, handing over, mails, and the gateway."""

from collections.abc import Callable

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client

from keyportal.keys.changes import hand_over
from keyportal.keys.exceptions import NotAMember, PolicyViolation
from keyportal.keys.models import ApiKey
from keyportal.notifications.emails import build_messages, owner_and_admins, owner_or_admins
from keyportal.teams.models import Membership, Team, User
from keyportal.teams.policy import Policy
from keyportal.teams.service_accounts import changes
from tests.support.forms import form_data
from tests.support.verdicts import read_verdict

KEYS = "/teams/u-8105f7322477/keys/"
CREATE = f"{KEYS}create/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def account(team: Team) -> User:
    return changes.create(team, "ci", "ci@example.com", actor=None)


@pytest.mark.any_database
def test_admin_creates_a_key_for_it(sign_in: SignIn, ada: User, account: User) -> None:
    client = sign_in(ada)
    page = client.get(CREATE)
    assert '<option value="" selected>You</option>' in page.content.decode()
    data = form_data(page, name="nightly", owner=account.username)
    assert client.post(CREATE, data).status_code == 200
    assert ApiKey.objects.get().owner == account


@pytest.mark.django_db(transaction=True, databases=["default", "admission"])
def test_key_of_it_is_served(account: User, issue: Issue) -> None:
    _, key_string = issue(account)
    assert read_verdict(key_string).owner_id == account.pk


@pytest.mark.any_database
def test_member_creates_no_key_for_it(
    sign_in: SignIn, bob: User, ada: User, account: User, team: Team
) -> None:
    client = sign_in(bob)
    page = client.get(CREATE)
    assert 'name="owner"' not in page.content.decode()
    data = form_data(page, name="nightly", owner=account.username)
    assert client.post(CREATE, data).status_code == 422
    for actor, owner in ((bob, account), (bob, ada), (ada, bob)):
        with pytest.raises(PermissionDenied):
            ApiKey.objects.issue(team=team, owner=owner, name="x", actor=actor)
    assert not ApiKey.objects.exists()


@pytest.mark.any_database
def test_account_of_another_team_owns_no_key_here(
    sign_in: SignIn, ada: User, account: User, other_team: Team, team: Team, issue: Issue
) -> None:
    elsewhere = changes.create(other_team, "ci", "ci@example.com", actor=None)
    client = sign_in(ada)
    data = form_data(client.get(CREATE), name="nightly", owner=elsewhere.username)
    assert client.post(CREATE, data).status_code == 422
    with pytest.raises(NotAMember):
        ApiKey.objects.issue(team=team, owner=elsewhere, name="x", actor=ada)
    key, _ = issue(ada)
    with pytest.raises(NotAMember):
        hand_over(key, elsewhere, actor=ada)


@pytest.mark.any_database
def test_key_of_somebody_who_leaves_is_handed_to_it(
    sign_in: SignIn, bob: User, ada: User, account: User, issue: Issue
) -> None:
    key, _ = issue(bob)
    client, address = sign_in(ada), f"{KEYS}{key.public_id}/hand-over/"
    page = client.get(address)
    assert account.username in page.content.decode()
    assert client.post(address, form_data(page, owner=str(account.pk))).status_code == 302
    Membership.objects.get(user=bob).delete()
    key.refresh_from_db()
    assert (key.owner, key.disabled_at) == (account, None)


@pytest.mark.any_database
def test_policy_allows_keys_only_for_them(
    sign_in: SignIn, bob: User, ada: User, account: User, team: Team, issue: Issue
) -> None:
    older, _ = issue(bob)
    Team.objects.update(policy=Policy(service_accounts_only=True))
    assert sign_in(bob).get(CREATE).status_code == 403
    client = sign_in(ada)
    page = client.get(CREATE)
    assert ">You<" not in page.content.decode()
    assert client.post(CREATE, form_data(page, name="hers", owner="")).status_code == 422
    with pytest.raises(PolicyViolation, match="only belong to service accounts"):
        ApiKey.objects.issue(team=team, owner=ada, name="hers", actor=ada)
    with pytest.raises(PolicyViolation, match="only belong to service accounts"):
        hand_over(older, ada, actor=ada)
    assert hand_over(older, account, actor=ada).owner == account
    client.post(CREATE, form_data(page, name="nightly", owner=account.username))
    assert ApiKey.objects.filter(owner=account).count() == 2


@pytest.mark.any_database
def test_policy_page_lists_keys_of_people(
    sign_in: SignIn, bob: User, ada: User, account: User, issue: Issue
) -> None:
    issue(bob, "of-bob")
    issue(account, "of-ci")
    Team.objects.update(policy=Policy(service_accounts_only=True))
    page = sign_in(ada).get("/teams/u-8105f7322477/policy/").content.decode()
    assert "of-bob" in page
    assert "of-ci" not in page
    assert "Keys of this team may only belong to service accounts." in page


@pytest.mark.any_database
def test_without_one_the_policy_says_where_to_create_one(sign_in: SignIn, ada: User) -> None:
    Team.objects.update(policy=Policy(service_accounts_only=True))
    assert "Create one first" in sign_in(ada).get(CREATE).content.decode()


@pytest.mark.any_database
def test_mails_about_its_keys_go_to_its_contact(team: Team, ada: User, account: User) -> None:
    assert owner_and_admins(team, account.pk) == [ada, account]
    assert owner_or_admins(team, account.pk) == [account]
    context = {"key": "x", "team": "Acme"}
    messages = build_messages("notifications/email/expiry", [account], context)
    assert messages[0].to == ["ci@example.com"]
