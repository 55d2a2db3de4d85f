"""Users, teams and memberships."""

import secrets
from datetime import datetime, timedelta
from importlib import import_module
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.contrib.auth.models import AbstractUser
from django.contrib.auth.models import UserManager as DjangoUserManager
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models.functions import Lower, Now

from keyportal.keys.keystring import require_no_key
from keyportal.teams.fields import LimitsField
from keyportal.teams.policy import PolicyField

NAME_TAKEN = "Another user has this name already."
EMAIL_TAKEN = "Another user has this e-mail address already."
SLUG_TAKEN = "Another team has or had this slug. A slug is never used again."
NO_SIGN_IN = "A service account has no password, no e-mail address and no rights of an operator."


class UserManager(DjangoUserManager["User"]):
    @classmethod
    def normalize_email(cls, email: str | None) -> str:
        """In lower case, because sign-in and password reset look addresses up in lower case."""
        return (email or "").strip().lower()

    def find_by_login(self, login: str) -> "User | None":
        """The user with this user name or e-mail address, ignoring case; None if there is none."""
        is_match = models.Q(username__iexact=login) | models.Q(email__iexact=login)
        return self.filter(is_match).first() if login else None


class Theme(models.TextChoices):
    SYSTEM = "", "As the system"
    LIGHT = "light", "Light"
    DARK = "dark", "Dark"


class Session(AbstractBaseSession):
    """A session, with its user, so that the sessions of one are found without reading all."""

    user_id = models.BigIntegerField(null=True, db_index=True)

    @classmethod
    def get_session_store_class(cls) -> type[SessionBase]:
        """By its setting, because the module of our class imports this one."""
        store: type[SessionBase] = import_module(settings.SESSION_ENGINE).SessionStore
        return store


class User(AbstractUser):
    """A person, or a service account: the owner of keys that no person is behind.

    A service account belongs to one team. Attack: somebody gets into it, and acts with nobody's
    name. It therefore has no password and no address to reset it at, in a rule of the database, and
    `sign_in.backends` refuses its session.
    """

    service_team = models.ForeignKey(
        "teams.Team",
        models.PROTECT,
        null=True,
        editable=False,
        related_name="service_accounts",
        help_text="The team of a service account. Null: a person.",
    )
    contact = models.EmailField(
        blank=True,
        editable=False,
        validators=[require_no_key],
        help_text="Who gets the mails about the keys of a service account.",
    )
    time_zone = models.CharField(
        max_length=64,
        blank=True,
        help_text="Such as Europe/Berlin. Empty: that of the browser, and UTC without JavaScript.",
    )
    theme = models.CharField(max_length=8, choices=Theme, blank=True)
    wants_reminders = models.BooleanField("reminders of expiry", default=True)
    wants_alarms = models.BooleanField("alarms", default=True)
    second_factor_asked_at = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When a page first said that a second factor is required.",
    )
    must_change_password = models.BooleanField(
        default=False,
        help_text="Somebody else knows the password. No page opens before it is changed.",
    )
    is_off_by_directory = models.BooleanField(
        default=False,
        editable=False,
        help_text="A directory (SCIM) deactivated the user, and may activate them again.",
    )

    objects: ClassVar[UserManager] = UserManager()

    was_active: bool | None = None
    """While it is saved: `is_active` in the database before; None if it is not saved, or new."""

    @property
    def is_service_account(self) -> bool:
        return self.service_team_id is not None

    @property
    def mail_address(self) -> str:
        """Where mails about the user's keys go; empty if there is no address."""
        return self.contact if self.is_service_account else self.email

    def set_password(self, raw_password: str | None) -> None:
        if self.is_service_account and raw_password is not None:
            raise PermissionDenied("A service account has no password.")
        super().set_password(raw_password)

    def clean(self) -> None:
        """Also refuses names and addresses that differ in the case of letters beyond ASCII, which
        the constraints below accept on SQLite. And names that contain a key string.
        """
        super().clean()
        if self.is_service_account and (self.email or self.is_staff or self.is_superuser):
            raise ValidationError(NO_SIGN_IN)
        for column in ("username", "first_name", "last_name", "email"):
            try:
                require_no_key(getattr(self, column))
            except ValidationError as error:
                raise ValidationError({column: error.messages}) from None
        others = User.objects.exclude(pk=self.pk)
        if others.filter(username__iexact=self.username).exists():
            raise ValidationError({"username": NAME_TAKEN})
        if self.email and others.filter(email__iexact=self.email).exists():
            raise ValidationError({"email": EMAIL_TAKEN})

    def save(self, *args: Any, **kwargs: Any) -> None:
        """In one transaction with what receivers of signals record and end."""
        with transaction.atomic():
            super().save(*args, **kwargs)

    class Meta(AbstractUser.Meta):
        constraints: ClassVar = [
            # Users may sign in with their e-mail address, so no two may share one.
            models.UniqueConstraint(
                Lower("email"),
                condition=~models.Q(email=""),
                name="user_email_unique",
                violation_error_message=EMAIL_TAKEN,
            ),
            # Sign-in ignores case, so it could not tell Bob from bob.
            models.UniqueConstraint(
                Lower("username"),
                name="user_name_unique",
                violation_error_message=NAME_TAKEN,
            ),
            models.CheckConstraint(
                condition=models.Q(service_team=None, contact="")
                | models.Q(
                    service_team__isnull=False,
                    email="",
                    password__startswith=UNUSABLE_PASSWORD_PREFIX,
                    is_staff=False,
                    is_superuser=False,
                ),
                name="user_service_account_never_signs_in",
                violation_error_message=NO_SIGN_IN,
            ),
        ]


def new_slug() -> str:
    """A random slug: `u-` and 12 hexadecimal digits, such as `u-8105f7322477`."""
    return f"u-{secrets.token_hex(6)}"


def default_max_keys() -> int:
    return int(settings.MAX_KEYS)


FORMER_SLUG_WORKS = timedelta(days=90)


class UsedSlugQuerySet(models.QuerySet["UsedSlug"]):
    def former(self) -> "UsedSlugQuerySet":
        """Former slugs of existing teams that still work, by the database's clock."""
        begin = Now() - FORMER_SLUG_WORKS
        return self.filter(team__isnull=False, replaced_at__gt=begin).order_by("-replaced_at")

    def outlived(self) -> "UsedSlugQuerySet":
        """Former slugs of existing teams that work no longer, which workers may not know yet."""
        outlived = self.filter(team__isnull=False, replaced_at__lte=Now() - FORMER_SLUG_WORKS)
        return outlived.filter(is_end_known=False)


class UsedSlug(models.Model):
    """A slug that a team has, or had before its deletion or before it got another one.

    Attack: audit, usage and receipts refer to a team by its slug and outlive it, so a new team
    with the slug of a deleted one could read that team's history. A slug is therefore stored here
    in the transaction that creates its team, and never removed. Its primary key prevents a second
    use, in whatever way the first team was deleted.
    """

    slug = models.CharField(max_length=64, primary_key=True)
    team = models.ForeignKey(
        "teams.Team",
        models.SET_NULL,
        null=True,
        related_name="used_slugs",
        help_text="Whose slug it is or was. Null: the team was deleted.",
    )
    replaced_at = models.DateTimeField(
        null=True, help_text="When the team got another slug. Null: it has this one."
    )
    is_end_known = models.BooleanField(
        db_default=False, help_text="Whether workers have been told that it works no longer."
    )

    objects = UsedSlugQuerySet.as_manager()

    def __str__(self) -> str:
        return self.slug

    @property
    def works_until(self) -> datetime | None:
        """The end of the time for which addresses and model names with a former slug work."""
        return self.replaced_at and self.replaced_at + FORMER_SLUG_WORKS


class TeamQuerySet(models.QuerySet["Team"]):
    def for_user(self, user: User) -> "TeamQuerySet":
        return self.filter(memberships__user=user).order_by("name", "slug")

    def find(self, slug: str) -> "Team | None":
        """The team with this slug, or with this former slug that still works."""
        former = UsedSlug.objects.former().filter(slug=slug)
        return self.filter(slug=slug).first() or self.filter(used_slugs__in=former).first()


class Team(models.Model):
    """Owns API keys; its limits hold for the keys of all its members together."""

    slug = models.CharField(
        max_length=64,
        unique=True,
        default=new_slug,
        validators=[
            RegexValidator(
                # Models named `public/...` are for all teams, so no team may have this slug.
                r"\A(?!public\Z)[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z",
                "Use lower-case letters, digits and hyphens, with no hyphen at the start or end. "
                "The slug `public` is reserved.",
            )
        ],
        help_text="Part of URLs and model names.",
    )
    history_slug = models.CharField(
        max_length=64,
        unique=True,
        editable=False,
        help_text="The first slug. Audit, usage and counters refer to the team by it.",
    )
    name = models.CharField(max_length=100, validators=[require_no_key])
    max_keys = models.PositiveIntegerField(
        default=default_max_keys,
        validators=[MaxValueValidator(1_000_000)],
        help_text="Maximum number of API keys of the team.",
    )
    is_active = models.BooleanField(
        default=True, help_text="The keys of an inactive team are refused from the next request on."
    )
    limits = LimitsField(help_text="Limits for all keys of the team together.")
    key_limits = LimitsField(
        help_text="The limits of a new key, and the maximum that members may set for their keys."
    )
    policy = PolicyField(editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = TeamQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Raises `IntegrityError` for a new team whose slug another team has or had."""
        with transaction.atomic():
            is_new = self._state.adding
            if is_new:
                self.history_slug = self.slug
            super().save(*args, **kwargs)
            if is_new:
                UsedSlug.objects.create(slug=self.slug, team=self)

    def clean(self) -> None:
        if self._state.adding and UsedSlug.objects.filter(slug=self.slug).exists():
            raise ValidationError({"slug": SLUG_TAKEN})


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
