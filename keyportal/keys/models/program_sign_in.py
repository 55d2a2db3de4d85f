"""Sign-in of a program by a code that a person types (RFC 8628), and the key that it got."""

from datetime import datetime, timedelta
from typing import Self

from django.db import models
from django.db.models.functions import Now
from django.utils import timezone

from keyportal.keys.keystring import require_no_key
from keyportal.keys.models.api_key import ApiKey
from keyportal.keys.rules.validators import require_printable
from keyportal.teams.models import Session, Team, User

CODE_LIFETIME = timedelta(minutes=10)
POLL_SECONDS = 5


class ProgramSignInQuerySet(models.QuerySet["ProgramSignIn"]):
    def undecided(self) -> Self:
        """Those that a person can still approve."""
        return self.filter(
            key=None, user=None, is_denied=False, created_at__gt=Now() - CODE_LIFETIME
        )

    def with_clock(self) -> Self:
        """With `read_at`, the time by the database's clock: those of the hosts may differ."""
        return self.annotate(read_at=Now())


class ProgramSignIn(models.Model):
    """Until the program has its key, the codes are waiting; then it says which session ends it.

    Codes are stored as digests. Attack: a reader of the database takes over a sign-in.
    """

    device_digest = models.BinaryField(max_length=32, unique=True)
    user_code_digest = models.CharField(max_length=64, unique=True)
    client = models.CharField(max_length=40, validators=[require_printable, require_no_key])
    address = models.GenericIPAddressField(null=True)
    created_at = models.DateTimeField(db_default=Now(), db_index=True)
    polled_at = models.DateTimeField(null=True)
    interval = models.PositiveSmallIntegerField(default=POLL_SECONDS)
    is_denied = models.BooleanField(default=False)
    user = models.ForeignKey(User, models.CASCADE, null=True, help_text="Who approved it.")
    team = models.ForeignKey(Team, models.CASCADE, null=True)
    session_key = models.CharField(max_length=40, blank=True, db_index=True)
    key = models.OneToOneField(ApiKey, models.CASCADE, null=True, related_name="program_sign_in")

    read_at: datetime
    """Only on rows of `with_clock`."""

    objects = ProgramSignInQuerySet.as_manager()

    def __str__(self) -> str:
        return self.client

    @property
    def has_expired(self) -> bool:
        return self.created_at + CODE_LIFETIME <= self.read_at

    @property
    def is_polled_early(self) -> bool:
        if self.polled_at is None:
            return False
        return self.read_at < self.polled_at + timedelta(seconds=self.interval)

    def session(self) -> Session | None:
        """The session of the person who approved it, locked; None if it has ended."""
        sessions = Session.objects.select_for_update()
        return sessions.filter(pk=self.session_key, expire_date__gt=timezone.now()).first()
