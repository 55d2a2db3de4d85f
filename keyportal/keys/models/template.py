"""Templates: named permissions and lifetimes for new keys, such as "CI job" or "read only"."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.keystring import require_no_key
from keyportal.keys.rules.permissions import (
    UNRESTRICTED,
    Endpoints,
    Permissions,
    PermissionsColumns,
)
from keyportal.keys.rules.policy import PlannedKey, violations, widest_permissions
from keyportal.keys.rules.validators import require_printable
from keyportal.teams.access import Actor, lock_team
from keyportal.teams.models import Role, Team
from keyportal.teams.policy import Policy


class KeyTemplateQuerySet(models.QuerySet["KeyTemplate"]):
    def for_team(self, team: Team) -> "KeyTemplateQuerySet":
        return self.filter(team=team).order_by("name")


class KeyTemplate(models.Model):
    """Chosen when a key is created. The key does not remember it, so later changes do not affect
    the key."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="templates")
    name = models.CharField(max_length=64, validators=[require_printable, require_no_key])
    allowed_models = models.JSONField(default=list, blank=True)
    endpoints = models.CharField(max_length=16, choices=Endpoints, default=Endpoints.ALL)
    allowed_networks = models.JSONField(default=list, blank=True)
    lifetime_days = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(3650)]
    )

    permissions = PermissionsColumns()

    objects = KeyTemplateQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team", "name"],
                name="template_name_unique_in_team",
                violation_error_message="A template with this name already exists in the team.",
            ),
            models.CheckConstraint(
                condition=Q(endpoints__in=Endpoints.values), name="template_endpoints_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def lifetime(self) -> timedelta | None:
        return None if self.lifetime_days is None else timedelta(days=self.lifetime_days)

    def permissions_within(self, policy: Policy) -> Permissions:
        """The permissions of a new key: what the template leaves open is all that the policy
        allows."""
        widest, own = widest_permissions(policy), self.permissions
        endpoints = widest.endpoints if own.endpoints == Endpoints.ALL else own.endpoints
        return Permissions(own.models or widest.models, endpoints, own.networks)

    def violations(
        self,
        policy: Policy,
        columns: tuple[str, ...] = ("allowed_models", "endpoints", "expires_at"),
    ) -> list[str]:
        """A sentence for each rule about `columns` that every key from this template breaks."""
        if self.lifetime is None:
            columns = tuple(column for column in columns if column != "expires_at")
        now = timezone.now()  # A lifetime is the same by each clock.
        key = PlannedKey(
            now,
            expires_at=now + self.lifetime if self.lifetime else None,
            permissions=self.permissions_within(policy),
        )
        return violations(policy, key, columns)

    def changes_from(self, former: "KeyTemplate | None") -> list[str]:
        """Texts for the audit; `former` is None for a new template."""
        before = former.permissions if former else UNRESTRICTED
        texts = [] if former else ["created"]
        if former and former.name != self.name:
            texts.append(f"Name: {former.name} → {self.name}")
        texts += self.permissions.changes_from(before)
        days = former.lifetime_days if former else None
        if days != self.lifetime_days:
            texts.append(f"Lifetime in days: {days or 'none'} → {self.lifetime_days or 'none'}")
        return texts


@contextmanager
def lock_template(template: KeyTemplate, *, actor: Actor) -> Iterator[KeyTemplate]:
    """Open a transaction, lock the template and give its current values; a new one as it is. Only
    for admins of the team.

    Raises `KeyTemplate.DoesNotExist` if it was deleted in the meantime.
    """
    with lock_team(template.team, actor=actor, role=Role.ADMIN) as team:
        yield KeyTemplate.objects.for_team(team).get(pk=template.pk) if template.pk else template


def save_template(template: KeyTemplate, *, actor: Actor, address: str | None = None) -> None:
    """Save a new or changed template, with an audit row of the changes.

    Raises `ValidationError` if another template has the name, and `KeyTemplate.DoesNotExist` if it
    was deleted in the meantime.
    """
    # The lock serializes concurrent saves, so the second of two with one name gets the error.
    with lock_team(template.team, actor=actor, role=Role.ADMIN) as team:
        former = KeyTemplate.objects.for_team(team).get(pk=template.pk) if template.pk else None
        template.full_clean()
        template.save(force_insert=former is None, force_update=former is not None)
        _record(former or template, template.changes_from(former), team, actor, address)


def delete_template(template: KeyTemplate, *, actor: Actor, address: str | None = None) -> None:
    """Delete a template. The keys that were created from it stay as they are.

    Raises `KeyTemplate.DoesNotExist` if it was deleted in the meantime.
    """
    with lock_team(template.team, actor=actor, role=Role.ADMIN) as team:
        row = KeyTemplate.objects.for_team(team).get(pk=template.pk)
        row.delete()
        _record(row, ["deleted"], team, actor, address)


def _record(
    template: KeyTemplate, changes: list[str], team: Team, actor: Actor, address: str | None
) -> None:
    AuditEvent.objects.record_changes(
        Action.TEAM_CHANGED,
        target=f"Template {template.name}",
        changes=changes,
        actor=actor,
        team=team,
        address=address,
    )
