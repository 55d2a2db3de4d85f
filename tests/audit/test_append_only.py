"""Audit events can be added, but not changed or deleted."""

from collections.abc import Callable

import pytest
from django.db import transaction

from keyportal.audit.models import Action, AppendOnlyError, AuditEvent
from keyportal.teams.models import Team


@pytest.fixture
def row(team: Team) -> AuditEvent:
    return AuditEvent.objects.record(Action.KEY_CREATED, target="ci (7QmX2aPd)", team=team)


def save_all(row: AuditEvent) -> None:
    row.target = "something else"
    row.save()


def save_one_field(row: AuditEvent) -> None:
    row.target = "something else"
    row.save(update_fields=["target"])


@pytest.mark.any_database
@pytest.mark.parametrize(
    "act",
    [
        save_all,
        save_one_field,
        lambda row: row.delete(),
        lambda _: AuditEvent.objects.update(target="something else"),
        lambda row: AuditEvent.objects.filter(pk=row.pk).update(target="something else"),
        lambda _: AuditEvent.objects.all().delete(),
        lambda row: AuditEvent.objects.bulk_update([row], ["target"]),
        lambda row: AuditEvent.objects.update_or_create(pk=row.pk, defaults={"target": "x"}),
    ],
    ids=[
        "save",
        "save of a field",
        "delete",
        "update",
        "filtered update",
        "delete of all",
        "bulk update",
        "update or create",
    ],
)
def test_history_cannot_be_changed(row: AuditEvent, act: Callable[[AuditEvent], object]) -> None:
    row.target = "something else"
    with pytest.raises(AppendOnlyError), transaction.atomic():
        act(row)
    assert AuditEvent.objects.get().target == "ci (7QmX2aPd)"


def test_events_outlive_the_team(team: Team, row: AuditEvent) -> None:
    slug = team.slug
    team.delete()
    assert AuditEvent.objects.get().team_slug == slug


def test_newest_first_and_only_of_the_team(team: Team, other_team: Team, row: AuditEvent) -> None:
    newer = AuditEvent.objects.record(Action.KEY_DELETED, target="x", team=team)
    AuditEvent.objects.record(Action.KEY_DELETED, target="x", team=other_team)
    assert list(AuditEvent.objects.for_team(team)) == [newer, row]


def test_a_link_local_address_loses_its_zone(team: Team) -> None:
    row = AuditEvent.objects.record(Action.SIGNED_IN, target="bob", address="fe80::1%eth0")
    assert AuditEvent.objects.get(pk=row.pk).address == "fe80::1"


def test_an_event_of_a_command_has_no_address(row: AuditEvent) -> None:
    assert AuditEvent.objects.get(pk=row.pk).address is None
