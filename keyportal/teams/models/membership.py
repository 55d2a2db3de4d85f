"""The roles of people in teams."""

from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.db import models, transaction
from django.db.models.functions import Lower

from keyportal.teams.models.team import Team
from keyportal.teams.models.user import User


class Role(models.TextChoices):
    """From the weakest to the strongest; each role includes the rights of those before it."""

    VIEWER = "viewer", "Viewer"
    MEMBER = "member", "Member"
    ADMIN = "admin", "Admin"
    OWNER = "owner", "Owner"

    @property
    def rank(self) -> int:
        return list(Role).index(self)


class MembershipQuerySet(models.QuerySet["Membership"]):
    def for_team(self, team: Team) -> "MembershipQuerySet":
        return self.filter(team=team)

    def for_display(self) -> "MembershipQuerySet":
        """With the user and `key_count`, the number of their keys in this team; by user name."""
        in_this_team = models.Q(user__keys__team=models.F("team"))
        return (
            self.select_related("user")
            .annotate(key_count=models.Count("user__keys", filter=in_this_team))
            .order_by(Lower("user__username"))
        )


class Membership(models.Model):
    """A user's role in a team. A key stops working when its owner's membership is deleted."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)
    granted_by = models.CharField(
        max_length=40,
        blank=True,
        editable=False,
        help_text="The identity provider whose groups gave the role. Empty: given by hand.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team", "user"],
                name="membership_unique",
                violation_error_message="This user is in the team already.",
            ),
            models.CheckConstraint(
                condition=models.Q(role__in=Role.values), name="membership_role_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.team} ({self.role})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """In one transaction with its audit event.

        Whoever saves a role without `granted_by` changes it by hand. Raises `ValidationError` as
        `clean` does.
        """
        self.clean()
        columns = kwargs.get("update_fields")
        is_by_hand = columns is None or ("role" in columns and "granted_by" not in columns)
        if not self._state.adding and is_by_hand:
            self.granted_by = ""
            kwargs["update_fields"] = None if columns is None else [*columns, "granted_by"]
        with transaction.atomic():
            super().save(*args, **kwargs)

    def clean(self) -> None:
        """A service account is a member of its own team, and of no other."""
        if self.user.is_service_account and (
            self.user.service_team_id != self.team_id or self.role != Role.MEMBER
        ):
            raise ValidationError(
                "A service account has the role Member in its own team, and no other."
            )

    def is_at_least(self, role: Role) -> bool:
        return Role(self.role).rank >= role.rank
