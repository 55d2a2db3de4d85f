"""The General page of the settings: the name, which admins change."""

from collections.abc import Callable

import pytest
from django.test import Client

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Role, Team, User
from tests.support.forms import form_data

pytestmark = pytest.mark.any_database

GENERAL = "/teams/u-8105f7322477/settings/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


def test_admin_changes_the_name(sign_in: SignIn, ada: User, team: Team) -> None:
    client = sign_in(ada)
    data = form_data(client.get(GENERAL), name="  Nova ")
    response = client.post(GENERAL, data, follow=True)
    assert response.redirect_chain == [(GENERAL, 302)]
    page = response.content.decode()
    assert "The name is changed." in page
    assert "<title>General · Nova · Keyportal</title>" in page
    team.refresh_from_db()
    assert team.name == "Nova"
    event = AuditEvent.objects.for_team(team).get(action=Action.TEAM_CHANGED)
    assert event.target == "Team: Name: Acme → Nova"
    assert (event.actor, event.address) == ("ada", "127.0.0.1")


def test_same_name_is_no_change(sign_in: SignIn, ada: User, team: Team) -> None:
    client = sign_in(ada)
    assert client.post(GENERAL, form_data(client.get(GENERAL))).status_code == 302
    assert not AuditEvent.objects.filter(action=Action.TEAM_CHANGED).exists()


def test_member_reads_it(sign_in: SignIn, bob: User, team: Team, issue: Issue) -> None:
    issue(bob)
    Team.objects.update(max_keys=7)
    client = sign_in(bob)
    page = client.get(GENERAL).content.decode()
    assert "1 of at most 7" in page
    assert "Operators set this limit." in page
    assert "<code>u-8105f7322477</code>" in page
    assert 'name="name"' not in page
    response = client.post(GENERAL, {"name": "Nova"})
    assert response.status_code == 403
    assert "This needs the role Admin" in response.content.decode()
    team.refresh_from_db()
    assert team.name == "Acme"


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("", "Enter a name."),
        ("x" * 101, "at most 100 characters"),
        ("sk-live-" + "x" * 60, ""),
    ],
)
def test_invalid_names(
    sign_in: SignIn, ada: User, team: Team, issue: Issue, name: str, error: str
) -> None:
    """A whole key string is refused, because the whole team reads the name."""
    if not error:
        name, error = issue(ada)[1], "key"
    response = sign_in(ada).post(GENERAL, {"name": name})
    assert response.status_code == 422
    assert error in str(response.context["form"].errors["name"])
    team.refresh_from_db()
    assert team.name == "Acme"


def test_name_that_somebody_else_changed_in_the_meantime(
    sign_in: SignIn, ada: User, team: Team
) -> None:
    client = sign_in(ada)
    data = form_data(client.get(GENERAL), name="Nova")
    Team.objects.update(name="Other")
    response = client.post(GENERAL, data)
    assert response.status_code == 409
    page = response.content.decode()
    assert "Changed since you opened this page: name." in page
    assert 'value="Other"' in page
    team.refresh_from_db()
    assert team.name == "Other"


def test_admin_who_is_demoted_while_the_request_waits(
    sign_in: SignIn, ada: User, team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: an admin's request was judged before they became a member."""
    client = sign_in(ada)
    data = form_data(client.get(GENERAL), name="Nova")
    Membership.objects.filter(user=ada).update(role=Role.MEMBER)
    monkeypatch.setattr("keyportal.teams.lifecycle.views.require_role", lambda *_: None)
    assert client.post(GENERAL, data).status_code == 403
    team.refresh_from_db()
    assert team.name == "Acme"
