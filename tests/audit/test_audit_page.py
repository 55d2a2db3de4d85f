"""The audit page."""

from collections.abc import Callable

import pytest
from django.test import Client
from pytest_django import DjangoAssertNumQueries

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User

pytestmark = pytest.mark.any_database

AUDIT = "/teams/u-8105f7322477/audit/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def record(team: Team) -> Callable[..., AuditEvent]:
    def record(action: Action = Action.KEY_CREATED, **fields: object) -> AuditEvent:
        defaults = {"target": "test-key", "team": team} | fields
        return AuditEvent.objects.record(action, **defaults)  # type: ignore[arg-type]

    return record


def test_admin_sees_events_newest_first(
    sign_in: SignIn, ada: User, bob: User, other_team: Team, record: Callable[..., AuditEvent]
) -> None:
    record(actor=bob, address="10.1.2.3")
    record(Action.KEY_DELETED)
    record(Action.SIGN_IN_FAILED, target="<b>bob", address="10.1.2.4")
    record(team=other_team, target="foreign")
    response = sign_in(ada).get(AUDIT)
    text = response.content.decode()
    assert response.status_code == 200
    assert [event.action for event in response.context["page"]] == [
        Action.SIGN_IN_FAILED,
        Action.KEY_DELETED,
        Action.KEY_CREATED,
    ]
    for expected in ("bob", "10.1.2.3", "Key created", "&lt;b&gt;bob"):
        assert expected in text
    for who in ("not signed in", "command line"):
        assert text.count(who) == 1
    assert "foreign" not in text


def test_failed_sign_in_from_an_unknown_address_is_not_from_the_command_line(
    sign_in: SignIn, ada: User, record: Callable[..., AuditEvent]
) -> None:
    record(Action.SIGN_IN_FAILED, target="bob", address="")
    text = sign_in(ada).get(AUDIT, {"action": Action.SIGN_IN_FAILED}).content.decode()
    assert "not signed in" in text
    assert "command line" not in text


def test_events_can_be_filtered_by_action(
    sign_in: SignIn, alice: User, record: Callable[..., AuditEvent]
) -> None:
    record()
    record(Action.KEY_DELETED)
    client = sign_in(alice)
    chosen = client.get(AUDIT, {"action": Action.KEY_DELETED}).context["page"]
    assert [event.action for event in chosen] == [Action.KEY_DELETED]
    assert len(client.get(AUDIT, {"action": "nonsense"}).context["page"]) == 2
    nothing = client.get(AUDIT, {"action": Action.KEY_REFUSED_BY_LIMIT}).content.decode()
    assert "No entry has this action." in nothing


def test_pages_hold_50_rows(
    sign_in: SignIn,
    ada: User,
    record: Callable[..., AuditEvent],
    django_assert_num_queries: DjangoAssertNumQueries,
) -> None:
    for _ in range(51):
        record()
    client = sign_in(ada)
    assert "1–50 of 51" in client.get(AUDIT).content.decode()
    with django_assert_num_queries(7):
        assert "51–51 of 51" in client.get(AUDIT, {"page": 2}).content.decode()


def test_page_needs_no_htmx(sign_in: SignIn, ada: User) -> None:
    with_htmx = sign_in(ada).get(AUDIT, headers={"HX-Request": "true"})
    assert with_htmx.content.lstrip().startswith(b"<!doctype html>")


def test_member_is_refused_with_the_reason(sign_in: SignIn, bob: User) -> None:
    response = sign_in(bob).get(AUDIT)
    assert response.status_code == 403
    assert "This needs the role Admin" in response.content.decode()
