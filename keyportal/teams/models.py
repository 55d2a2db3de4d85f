"""What is set for a team as a whole: its policy, its roof, the limits of its new keys."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.contrib.auth.models import UserManager as DjangoUserManager
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models.functions import Lower

from keyportal.teams.fields import LimitsField
from keyportal.teams.policy import PolicyField


class UserManager(DjangoUserManager["User"]):
    @classmethod
    def normalize_email(cls, email: str | None) -> str:
        """All lower case: sign-in and password reset look an address up that way."""
        return (email or "").strip().lower()

    def find_by_login(self, login: str) -> "User | None":
        """Whom somebody means who types this to sign in: a user name or an address, in any case."""
        either = models.Q(username__iexact=login) | models.Q(email__iexact=login)
        return self.filter(either).first() if login else None


class User(AbstractUser):
    """A person. Programs are not users: they hold keys."""

    objects: ClassVar[UserManager] = UserManager()

    class Meta(AbstractUser.Meta):
        constraints: ClassVar = [
            # People may sign in with their address, so two must never share one.
            models.UniqueConstraint(
                Lower("email"),
                condition=~models.Q(email=""),
                name="user_email_unique",
                violation_error_message="Another user has this e-mail address.",
            ),
            # Sign-in ignores case, so Bob and bob would lock each other out.
            models.UniqueConstraint(
                Lower("username"),
                name="user_name_unique",
                violation_error_message="Another user has this name.",
            ),
        ]


def new_slug() -> str:
    """`u-` and twelve hexadecimal digits, such as `u-8105f7322477`: says nothing, never reused."""
    return f"u-{secrets.token_hex(6)}"


def default_key_limit() -> int:
    return int(settings.KEY_LIMIT)


class UsedSlug(models.Model):
    """A slug that a team has, or that a team had which is deleted now.

    Audit, usage and receipts name their team by its slug and outlive it: a new team with the slug
    of a deleted one would read that team's history. So a slug is written here in the transaction
    that gives it to a team, is never removed, and its being unique is what refuses the second use,
    however the first team was deleted.
    """

    slug = models.CharField(max_length=64, primary_key=True)

    def __str__(self) -> str:
        return self.slug


class TeamQuerySet(models.QuerySet["Team"]):
    def for_user(self, user: User) -> "TeamQuerySet":
        return self.filter(memberships__user=user).order_by("name", "slug")


class Team(models.Model):
    """An account: keys belong to it, and its limit holds for all its members together."""

    slug = models.CharField(
        max_length=64,
        unique=True,
        default=new_slug,
        validators=[
            RegexValidator(
                # `public/...` are the models of all teams, so no team is called that.
                r"\A(?!public\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z",
                "Use lower-case letters, digits and hyphens, not at either end; not `public`.",
            )
        ],
        help_text="Part of addresses and of model names. It can't be changed later.",
    )
    name = models.CharField(max_length=100)
    key_limit = models.PositiveIntegerField(
        default=default_key_limit,
        validators=[MaxValueValidator(1_000_000)],
        help_text="How many API keys the team may have at a time.",
    )
    is_active = models.BooleanField(
        default=True, help_text="Keys of an inactive team are refused from the next request on."
    )
    limits = LimitsField(help_text="A roof over all keys of the team together.")
    key_limits = LimitsField(
        help_text="What a new key starts with, and the most that members may give their own keys."
    )
    policy = PolicyField(editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TeamQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises `IntegrityError` for a new team whose slug another team has or had."""
        with transaction.atomic():
            if self._state.adding:
                UsedSlug.objects.create(slug=self.slug)
            super().save(*args, **kwargs)

    def clean(self) -> None:
        if self._state.adding and UsedSlug.objects.filter(slug=self.slug).exists():
            raise ValidationError(
                {"slug": "Another team has or had this slug, and a slug is never used again."}
            )


class Role(models.TextChoices):
    """From the weakest to the strongest; each may do what those before it may."""

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
        """With the user and `key_count`, their keys in this team; by user name."""
        in_this_team = models.Q(user__keys__team=models.F("team"))
        return (
            self.select_related("user")
            .annotate(key_count=models.Count("user__keys", filter=in_this_team))
            .order_by(Lower("user__username"))
        )


class Membership(models.Model):
    """What one user is in one team. A key stops working when its owner's membership ends."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=16, choices=Role, default=Role.MEMBER)
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

    def is_at_least(self, role: Role) -> bool:
        return Role(self.role).rank >= role.rank


@contextmanager
def lock_team(team: Team) -> Iterator[Team]:
    """The team as it is now, in a transaction in which nobody else changes its rules, nor makes
    anything that they bound.
    """
    with transaction.atomic():
        # NO KEY: rows that refer to the team may be written meanwhile.
        yield Team.objects.select_for_update(no_key=True).get(pk=team.pk)
