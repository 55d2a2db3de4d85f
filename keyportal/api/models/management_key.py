"""Management keys: what programs look after a team's API keys with, and never call models with."""

from datetime import datetime, timedelta
from typing import ClassVar, Self

from django.conf import settings
from django.db import models, transaction
from django.db.models import Q
from django.db.models.functions import Now
from django.views.decorators.debug import sensitive_variables

from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.exceptions import KeyActionError, NameTaken
from keyportal.keys.keystring import KeyString
from keyportal.keys.models import SpentNonce
from keyportal.keys.rules.permissions import EVERYTHING, Endpoints, Permissions, PermissionsColumns
from keyportal.keys.rules.validators import require_no_key, require_printable
from keyportal.teams.models import Membership, Team, User, lock_team

MOST = 50  # In a team. They are few by nature, and their page shows them all.
SEEN_EVERY = timedelta(minutes=1)


class TooMany(KeyActionError):
    def __init__(self) -> None:
        super().__init__(f"A team has at most {MOST} management keys. Delete one first.")


class ManagementKeyQuerySet(models.QuerySet["ManagementKey"]):
    def of(self, team: Team) -> Self:
        return self.filter(team=team)

    def timed(self) -> Self:
        """Each with the time at which it was read, by the database's clock: the hosts' clocks may
        differ, and a key must not be over on one host and work on another."""
        return self.annotate(read_at=Now())

    def for_display(self) -> Self:
        keys = self.timed().select_related("owner").prefetch_related("owner__memberships")
        return keys.order_by("-pk")

    def working(self) -> Self:
        """Not over; the team is active, and the owner too. See `membership` for whether they are
        still in it."""
        return self.timed().filter(
            Q(expires_at=None) | Q(expires_at__gt=Now()),
            team__is_active=True,
            owner__is_active=True,
        )

    @sensitive_variables("key_string")
    def issue(
        self,
        *,
        team: Team,
        owner: User,
        name: str,
        scopes: list[Scope],
        permissions: Permissions = EVERYTHING,
        expires_at: datetime | None = None,
        actor: User | None = None,
        address: str | None = None,
        nonce: str = "",
    ) -> tuple["ManagementKey", KeyString]:
        """Create one and return it with its plaintext, which exists nowhere else.

        `permissions` are the most that keys made with it may have. Raises `NameTaken`, `TooMany`
        or `AlreadyCreated`, each after creating nothing.
        """
        key_string = keystring.generate(prefix=settings.MANAGEMENT_KEY_PREFIXES[0])
        with lock_team(team) as locked:
            SpentNonce.objects.spend(nonce)
            if self.of(locked).filter(name=name).exists():
                raise NameTaken
            if self.of(locked).count() >= MOST:
                raise TooMany
            key = self.model(
                team=locked,
                owner=owner,
                name=name,
                scopes=sorted(set(scopes)),
                expires_at=expires_at,
                public_id=key_string.public_id,
                prefix=key_string.prefix,
                digest=keystring.digest(key_string.text.encode()),
                last4=key_string.last4,
            )
            key.permissions = permissions
            key.save(force_insert=True)
            key._record(Action.MANAGEMENT_KEY_CREATED, actor, address)
        return key, key_string


class ManagementKey(models.Model):
    """Does what its scopes say and its owner could do in the portal at that moment: no more."""

    team = models.ForeignKey(Team, models.PROTECT, related_name="management_keys")
    owner = models.ForeignKey(User, models.PROTECT, related_name="management_keys")
    name = models.CharField(max_length=64, validators=[require_printable, require_no_key])
    scopes = models.JSONField(default=list)
    allowed_models = models.JSONField(
        default=list, blank=True, help_text="The most that keys made with it may call. Empty: all."
    )
    endpoints = models.CharField(max_length=16, choices=Endpoints, default=Endpoints.ALL)
    networks = models.JSONField(default=list, blank=True)
    public_id = models.CharField(max_length=8, unique=True, editable=False)
    prefix = models.CharField(max_length=32)
    digest = models.BinaryField(max_length=32, unique=True)
    last4 = models.CharField(max_length=4)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, editable=False)
    last_used_ip = models.GenericIPAddressField(null=True, editable=False)

    permissions = PermissionsColumns()
    """The most that keys made or changed with it may have."""

    read_at: datetime
    """Only of one that `timed` read; on SQLite to the millisecond."""

    objects = ManagementKeyQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team", "name"],
                name="managementkey_name_unique_in_team",
                violation_error_message="A management key with this name already exists.",
            ),
            models.CheckConstraint(condition=~Q(name=""), name="managementkey_name_not_empty"),
            models.CheckConstraint(
                condition=Q(endpoints__in=Endpoints.values), name="managementkey_endpoints_known"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"

    @property
    def masked(self) -> str:
        return keystring.mask(self.prefix, self.public_id, self.last4)

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= self.read_at

    @property
    def has_lost_its_owner(self) -> bool:
        teams = {membership.team_id for membership in self.owner.memberships.all()}
        return not self.owner.is_active or self.team_id not in teams

    @property
    def membership(self) -> Membership:
        """What its owner is in the team, now. Raises `Membership.DoesNotExist`."""
        return Membership.objects.select_related("team", "user").get(
            team=self.team_id, user=self.owner_id
        )

    def saw_use(self, address: str | None) -> None:
        """Note time and address, once a minute at most: reading must not cost a write each time."""
        if self.last_used_at is None or self.last_used_at < self.read_at - SEEN_EVERY:
            ManagementKey.objects.filter(pk=self.pk).update(
                last_used_at=self.read_at, last_used_ip=(address or "").partition("%")[0] or None
            )

    def held(self) -> None:
        """Keep it from being deleted until this transaction ends.

        Raises `ManagementKey.DoesNotExist` where it was deleted after it was let in.
        """
        ManagementKey.objects.select_for_update(no_key=True, of=("self",)).get(pk=self.pk)

    def revoke(self, *, actor: User | None, address: str | None = None) -> None:
        """Delete it. What it is used for from then on changes nothing any more.

        Raises `ManagementKey.DoesNotExist` when somebody else was faster.
        """
        with transaction.atomic():
            # What it is in the middle of writing ends before this does; see `held`.
            locked = ManagementKey.objects.select_for_update(of=("self",)).get(pk=self.pk)
            locked._record(Action.MANAGEMENT_KEY_DELETED, actor, address)
            locked.delete()

    def _record(self, action: Action, actor: User | None, address: str | None) -> None:
        AuditEvent.objects.record(
            action, target=str(self), actor=actor, team=self.team, address=address
        )
