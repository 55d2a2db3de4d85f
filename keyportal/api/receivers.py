"""Deletes a management key that is reported as leaked, see `leaks.handling`, or whose owner is
deactivated or removed from the team.

A management key can't be disabled or rotated. Its program needs a new one; the API keys that were
made with it stay.
"""

from django.db import transaction
from django.dispatch import receiver
from django.views.decorators.debug import sensitive_variables

from keyportal.api.models import ManagementKey
from keyportal.audit.models import Action, AuditEvent
from keyportal.audit.source import current_source
from keyportal.keys.rules.renaming import rename_in_rows
from keyportal.leaks.case import MANAGEMENT_KEY, LeakReport, StoppedKey
from keyportal.leaks.handling import leak_reported
from keyportal.teams.access import Actor
from keyportal.teams.models import Team, User
from keyportal.teams.signals import access_ended, slug_changed, team_deleted


@receiver(access_ended)
def delete_keys_of_former_members(user: User, team_id: int | None, **_: object) -> None:
    """A management key can't be disabled, and would work again when its owner comes back."""
    with transaction.atomic():
        ManagementKey.objects.delete_owned(user, team_id, **current_source())


@receiver(team_deleted)
def delete_keys_of_team(team: Team, actor: Actor, address: str | None, **_: object) -> None:
    for key in ManagementKey.objects.for_team(team):
        key.revoke(actor=actor, address=address)


@receiver(slug_changed)
def follow_slug(team: Team, former: str, **_: object) -> None:
    """Management keys go on to give the same models."""
    rename_in_rows(ManagementKey.objects.for_team(team), former, team.slug)


@receiver(leak_reported)
@sensitive_variables()
def delete_leaked_keys(report: LeakReport, **_: object) -> None:
    """Delete each management key in the report; skip those that are deleted already."""
    leaked = ManagementKey.objects.filter(digest__in=report.urls).select_related("team", "owner")
    for key in leaked.order_by("pk"):
        url = report.urls[bytes(key.digest)]
        try:
            _delete(key, report, url)
        except ManagementKey.DoesNotExist:
            continue
        report.stopped.append(StoppedKey(key, url, MANAGEMENT_KEY, "management_keys:list"))


def _delete(key: ManagementKey, report: LeakReport, url: str) -> None:
    """Raises `DoesNotExist` if the key is deleted already; then nothing is written to the audit
    log."""
    with transaction.atomic():
        AuditEvent.objects.record(
            Action.KEY_REPORTED,
            target=f"management key {key}: {report.audit_text(url)}",
            team=key.team,
            address=report.address,
        )
        key.revoke(actor=None, address=report.address)
