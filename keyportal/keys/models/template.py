"""What a team gives new keys of a kind, under a name: "CI job", "read only".

People call them templates. Who makes a key chooses one, and the key then knows nothing of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.rules.permissions import (
    UNRESTRICTED,
    Endpoints,
    Permissions,
    PermissionsColumns,
)
from keyportal.keys.rules.policy import violations, widest_permissions
from keyportal.keys.rules.validators import require_no_key, require_printable
from keyportal.teams.models import Team, User, lock_team
from keyportal.teams.policy import Policy

if TYPE_CHECKING:
    from keyportal.keys.models.api_key import ApiKey


class KeyTemplateQuerySet(models.QuerySet["KeyTemplate"]):
    def for_team(self, team: Team) -> "KeyTemplateQuerySet":
        return self.filter(team=team).order_by("name")


class KeyTemplate(models.Model):
    """A template for keys: chosen when one is made, and then forgotten."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="templates")
    name = models.CharField(max_length=64, validators=[require_printable, require_no_key])
    allowed_models = models.JSONField(default=list, blank=True)
    endpoints = models.CharField(max_length=16, choices=Endpoints, default=Endpoints.ALL)
    networks = models.JSONField(default=list, blank=True)
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
        """What a key gets: where the template says nothing, as much as the policy allows."""
        most, own = widest_permissions(policy), self.permissions
        is_open = own.endpoints == Endpoints.ALL
        return Permissions(
            own.models or most.models, most.endpoints if is_open else own.endpoints, own.networks
        )

    def violations(self, policy: Policy, of: tuple[str, ...] = ()) -> list[str]:
        """A sentence for each rule that every key made from it would break; `of` as for a key."""
        of = of or ("allowed_models", "endpoints", "expires_at")
        if self.lifetime is None:
            of = tuple(column for column in of if column != "expires_at")
        return violations(policy, self._trial(policy), of)

    def _trial(self, policy: Policy) -> "ApiKey":
        from keyportal.keys.models.api_key import ApiKey

        key = ApiKey(expires_at=timezone.now() + self.lifetime if self.lifetime else None)
        key.permissions = self.permissions_within(policy)
        return key

    def changes_from(self, former: "KeyTemplate | None") -> list[str]:
        """Phrases for the audit; `former` is None for a new one."""
        before = former.permissions if former else UNRESTRICTED
        told = [] if former else ["created"]
        if former and former.name != self.name:
            told.append(f"Name: {former.name} → {self.name}")
        told += self.permissions.changes_from(before)
        days = former.lifetime_days if former else None
        if days != self.lifetime_days:
            told.append(f"Lifetime in days: {days or 'none'} → {self.lifetime_days or 'none'}")
        return told


@contextmanager
def lock_template(template: KeyTemplate) -> Iterator[KeyTemplate]:
    """The template as it is now, in a transaction in which nobody else changes it; a new one as it
    is given.

    Raises `KeyTemplate.DoesNotExist` when it was deleted meanwhile.
    """
    with lock_team(template.team) as team:
        yield KeyTemplate.objects.for_team(team).get(pk=template.pk) if template.pk else template


def save_template(template: KeyTemplate, *, actor: User | None, address: str | None = None) -> None:
    """Save a new template, or a changed one, with an audit row of what is different.

    Raises `ValidationError` where another has its name, and `KeyTemplate.DoesNotExist` when it was
    deleted meanwhile.
    """
    # Two of one name would wait for each other here, and the later is told.
    with lock_team(template.team) as team:
        former = KeyTemplate.objects.for_team(team).get(pk=template.pk) if template.pk else None
        template.full_clean()
        template.save(force_insert=former is None, force_update=former is not None)
        _record(former or template, template.changes_from(former), team, actor, address)


def delete_template(
    template: KeyTemplate, *, actor: User | None, address: str | None = None
) -> None:
    """Delete a template; the keys that were made from it stay as they are.

    Raises `KeyTemplate.DoesNotExist` when somebody else was faster.
    """
    with lock_team(template.team) as team:
        found = KeyTemplate.objects.for_team(team).get(pk=template.pk)
        found.delete()
        _record(found, ["deleted"], team, actor, address)


def _record(
    template: KeyTemplate, changes: list[str], team: Team, actor: User | None, address: str | None
) -> None:
    AuditEvent.objects.record_changes(
        Action.TEAM_CHANGED,
        target=f"Template {template.name}",
        changes=changes,
        actor=actor,
        team=team,
        address=address,
    )
