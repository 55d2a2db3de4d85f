"""Invitations that wait for an answer. One that is used or revoked is deleted; the audit stays."""

import secrets
from datetime import datetime, timedelta
from typing import ClassVar, Self

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from keyportal.keys.keystring import require_no_key
from keyportal.teams.access import grantable_roles
from keyportal.teams.models import Membership, Role, Team, User

LIFETIME = timedelta(days=7)
MAX_NOTE_LENGTH = 300


def new_nonce() -> str:
    return secrets.token_urlsafe(16)


def new_expiry() -> datetime:
    return timezone.now() + LIFETIME


class InvitationQuerySet(models.QuerySet["Invitation"]):
    def for_team(self, team: Team) -> Self:
        return self.filter(team=team)

    def with_expiry(self) -> Self:
        """With `has_expired`, by the database's clock."""
        is_over = models.Case(
            models.When(expires_at__lte=Now(), then=True),
            default=False,
            output_field=models.BooleanField(),
        )
        return self.annotate(has_expired=is_over)

    def for_display(self) -> Self:
        """With who invited, and `has_expired`; by address."""
        return self.with_expiry().select_related("invited_by").order_by("email")


class Invitation(models.Model):
    """Somebody with this address may join the team. An address has at most one for each team."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="invitations")
    email = models.EmailField(help_text="In lower case.")
    role = models.CharField(max_length=16, choices=Role)
    note = models.CharField(max_length=MAX_NOTE_LENGTH, blank=True, validators=[require_no_key])
    # Attack: without the person, it would look like an operator's, which needs no role.
    invited_by = models.ForeignKey(
        User, models.CASCADE, null=True, related_name="+", help_text="Null: an operator."
    )
    # In the signed link. Attack: a link that was revoked works again after a new invitation.
    nonce = models.CharField(max_length=32, default=new_nonce, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(default=new_expiry)

    has_expired: bool
    """Only on rows of `with_expiry`."""

    objects = InvitationQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team", "email"], name="invitation_unique"),
            models.CheckConstraint(
                condition=models.Q(role__in=Role.values), name="invitation_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.email} as {self.role}"

    @property
    def mail_address(self) -> str:
        return self.email

    def is_backed(self) -> bool:
        """Whether the person who invited may give the role now.

        Attack: an admin who will be removed invites a second address of theirs before.
        """
        if self.invited_by_id is None:
            return True
        members = Membership.objects.filter(
            team=self.team_id, user=self.invited_by_id, user__is_active=True
        )
        inviter = members.first()
        return inviter is not None and self.role in grantable_roles(Role(inviter.role))
