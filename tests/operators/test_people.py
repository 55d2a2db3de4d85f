"""Operators deactivate people and make operators; the last operator stays one."""

from collections.abc import Callable

import pytest
from allauth.mfa.models import Authenticator
from django.db import transaction
from django.test import Client

from keyportal.audit.models import AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.operators.people import set_active, set_operator
from keyportal.operators.receivers import LastOperator
from keyportal.teams.access import Outsider
from keyportal.teams.models import Membership, Role, Session, Team, User
from tests.support.cases import own_case
from tests.support.concurrency import run_concurrently

PEOPLE = "/operators/people/"
Issue = Callable[..., tuple[ApiKey, str]]


def events(person: User) -> list[tuple[str, str]]:
    rows = AuditEvent.objects.filter(target__startswith=f"User {person}: ").order_by("pk")
    return [(event.actor, event.target.partition(": ")[2]) for event in rows]


@pytest.mark.any_database
def test_deactivation_ends_sessions_and_keys(
    operator: Client, bob: User, issue: Issue, olga: User
) -> None:
    issue(bob)
    theirs = Client()
    theirs.force_login(bob)
    path = f"{PEOPLE}{bob.pk}/"
    assert "1 API key is refused" in operator.get(f"{path}deactivate/").content.decode()
    assert User.objects.get(pk=bob.pk).is_active
    done = operator.post(f"{path}deactivate/", follow=True).content.decode()
    assert "bob is deactivated." in done
    assert "Activate" in done
    assert theirs.get("/").status_code == 302
    assert Session.objects.count() == 1
    assert ApiKey.objects.get().disabled_at is not None
    operator.post(f"{path}activate/")
    assert User.objects.get(pk=bob.pk).is_active
    assert ApiKey.objects.get().disabled_at is not None
    assert events(bob) == [("olga", "Active: yes → no"), ("olga", "Active: no → yes")]


@pytest.mark.any_database
def test_person_becomes_an_operator_and_no_longer(operator: Client, bob: User) -> None:
    path = f"{PEOPLE}{bob.pk}/operator/"
    theirs = Client()
    theirs.force_login(bob)
    assert operator.get(f"{path}grant/").status_code == 200
    assert theirs.get(PEOPLE).status_code == 404
    operator.post(f"{path}grant/")
    assert theirs.get(PEOPLE).status_code == 200
    assert theirs.get("/admin/").status_code == 200
    operator.post(f"{path}revoke/")
    assert theirs.get(PEOPLE).status_code == 404
    assert events(bob) == [
        ("olga", "Staff: no → yes, Superuser: no → yes"),
        ("olga", "Staff: yes → no, Superuser: yes → no"),
    ]


@pytest.mark.parametrize("path", ["deactivate", "operator/revoke"])
def test_last_operator_stays_one(operator: Client, olga: User, bob: User, path: str) -> None:
    response = operator.post(f"{PEOPLE}{olga.pk}/{path}/")
    assert response.status_code == 403
    assert "This is the last operator." in response.content.decode()
    olga.refresh_from_db()
    assert olga.is_active
    assert olga.is_superuser
    set_operator(bob, is_operator=True, actor=olga)
    assert operator.post(f"{PEOPLE}{olga.pk}/{path}/").status_code == 302
    assert operator.get(PEOPLE).status_code in {302, 404}


def test_no_other_code_removes_the_last_operator(olga: User) -> None:
    for column in ("is_active", "is_superuser"):
        row = User.objects.get(pk=olga.pk)
        setattr(row, column, False)
        for columns in (None, [column]):
            with pytest.raises(LastOperator):
                row.save(update_fields=columns)
    with pytest.raises(LastOperator), transaction.atomic():
        User.objects.get(pk=olga.pk).delete()
    row.save(update_fields=["email"])
    root = User.objects.create_superuser("root")
    olga.delete()
    assert [*User.objects.all()] == [root]


@pytest.mark.any_database
def test_former_operator_changes_nobody(olga: User, bob: User) -> None:
    User.objects.create_superuser("root")
    User.objects.filter(pk=olga.pk).update(is_superuser=False)
    with pytest.raises(Outsider):
        set_active(bob, is_active=False, actor=olga)
    with pytest.raises(Outsider):
        set_operator(olga, is_operator=True, actor=olga)
    assert not User.objects.get(pk=olga.pk).is_superuser
    assert User.objects.get(pk=bob.pk).is_active


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("way", ["deactivate", "revoke"])
def test_two_operators_who_remove_each_other_leave_one(way: str) -> None:
    first, second = (User.objects.create_superuser(name) for name in ("olga", "root"))

    def remove(actor: User, other: User) -> None:
        if way == "deactivate":
            set_active(other, is_active=False, actor=actor)
        else:
            set_operator(other, is_operator=False, actor=actor)

    outcomes = run_concurrently(lambda: remove(first, second), lambda: remove(second, first))
    assert {type(outcome) for outcome in outcomes} == {Outsider, type(None)}
    assert User.objects.filter(is_superuser=True, is_active=True).count() == 1


@pytest.mark.any_database
def test_list_is_searched(operator: Client, bob: User, charlie: User) -> None:
    User.objects.filter(pk=bob.pk).update(first_name="Robert", is_active=False)
    everybody = operator.get(PEOPLE).content.decode()
    assert everybody.count('data-label="E-mail"') == 3
    assert "Deactivated" in everybody
    for query in ("robert", "BOB@"):
        found = operator.get(PEOPLE, {"q": query}).content.decode()
        assert "bob" in found
        assert "charlie" not in found


@pytest.mark.any_database
def test_unknown_person_is_404(operator: Client) -> None:
    for path in ("", "deactivate/", "activate/", "operator/grant/", "operator/revoke/"):
        with own_case(path):
            assert operator.get(f"{PEOPLE}4711/{path}").status_code == 404
            assert operator.post(f"{PEOPLE}4711/{path}").status_code in {404, 405}


@pytest.mark.any_database
def test_persons_page_shows_their_teams(operator: Client, bob: User) -> None:
    page = operator.get(f"{PEOPLE}{bob.pk}/").content.decode()
    assert "Acme" in page
    assert "bob@example.com" in page
    assert bob.password not in page


@pytest.mark.any_database
def test_service_account_is_no_person(operator: Client, team: Team, bob: User) -> None:
    robot = User(username="robot", service_team=team, contact="ops@example.com")
    robot.set_unusable_password()
    User.objects.bulk_create([robot])
    Membership.objects.create(team=team, user=robot, role=Role.MEMBER)
    assert "robot" not in operator.get(PEOPLE).content.decode()
    assert operator.post(f"{PEOPLE}{robot.pk}/operator/grant/").status_code == 404
    assert "Service account" in operator.get(f"/operators/teams/{team.pk}/").content.decode()


@pytest.mark.any_database
def test_lost_second_factors_are_reset(operator: Client, bob: User) -> None:
    Authenticator.objects.create(user=bob, type=Authenticator.Type.TOTP, data={"secret": "x"})
    path = f"{PEOPLE}{bob.pk}/"
    theirs = Client()
    theirs.force_login(bob)
    assert "factors/reset/" in operator.get(path).content.decode()
    assert "Remove all second factors" in operator.get(f"{path}factors/reset/").content.decode()
    assert Authenticator.objects.exists()
    operator.post(f"{path}factors/reset/")
    assert not Authenticator.objects.exists()
    assert theirs.get("/").status_code == 302
    assert "factors/reset/" not in operator.get(path).content.decode()
    assert AuditEvent.objects.filter(actor="olga", target__contains="bob").exists()
