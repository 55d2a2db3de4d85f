"""Users, who are people or service accounts, and their sessions."""

from importlib import import_module
from typing import Any, ClassVar

from django.conf import settings
from django.contrib.auth.hashers import UNUSABLE_PASSWORD_PREFIX
from django.contrib.auth.models import AbstractUser
from django.contrib.auth.models import UserManager as DjangoUserManager
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.base_session import AbstractBaseSession
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import models, transaction
from django.db.models.functions import Lower

from keyportal.keys.keystring import require_no_key

NAME_TAKEN = "Another user has this name already."
EMAIL_TAKEN = "Another user has this e-mail address already."
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
    provider_session = models.CharField(max_length=64, default="", db_index=True)
    """A digest of the session at the identity provider, whose end there ends this one."""

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
