"""Management keys: with one, a program manages a team's API keys. It can't call models."""

from datetime import datetime, timedelta
from typing import ClassVar, Self

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.views.decorators.debug import sensitive_variables

from keyportal.api.scopes import Scope
from keyportal.audit.models import Action, AuditEvent
from keyportal.keys import keystring
from keyportal.keys.exceptions import KeyActionError, NameTaken
from keyportal.keys.keystring import KeyString, require_no_key
from keyportal.keys.models import SpentNonce
from keyportal.keys.rules.permissions import (
    UNRESTRICTED,
    Endpoints,
    Permissions,
    PermissionsColumns,
)
from keyportal.keys.rules.validators import require_printable
from keyportal.teams.access import Actor, lock_team
from keyportal.teams.models import Membership, Role, Team, User

MAX_PER_TEAM = 50  # Their page shows them all.
LAST_USE_INTERVAL = timedelta(minutes=1)


class TooManyManagementKeys(KeyActionError):
    def __init__(self) -> None:
        super().__init__(f"A team has at most {MAX_PER_TEAM} management keys. Delete one first.")


class ManagementKeyQuerySet(models.QuerySet["ManagementKey"]):
    def for_team(self, team: Team) -> Self:
        return self.filter(team=team)

    def with_read_at(self) -> Self:
        """Annotate each key with the time at which it was read, by the database's clock.

        Clocks of hosts may differ, and a key must not work on one host and be expired on another.
        """
        return self.annotate(read_at=Now())

    def for_display(self) -> Self:
        keys = self.with_read_at().select_related("owner").prefetch_related("owner__memberships")
        return keys.order_by("-pk")

    def active(self) -> Self:
        """Keys that have not expired, whose team and owner are active.

        It doesn't check whether the owner is still a member of the team; see `membership`.
        """
        return self.with_read_at().filter(
            Q(expires_at=None) | Q(expires_at__gt=Now()),
            team__is_active=True,
            owner__is_active=True,
        )

    def delete_owned(
        self, owner: User, team_id: int | None, *, actor: Actor, address: str | None
    ) -> None:
        """Delete the keys of a user who is deactivated or leaves, in one team or in all.

        Without the lock on the team: the caller holds that on the user or the membership, which
        others take after the team's.
        """
        keys = self.filter(owner=owner).select_related("team")
        in_team = keys if team_id is None else keys.filter(team=team_id)
        for key in in_team.order_by("pk").select_for_update(of=("self",)):
            key._record(Action.MANAGEMENT_KEY_DELETED, actor, address)
            key.delete()

    @sensitive_variables("key_string")
    def issue(
        self,
        *,
        team: Team,
        owner: User,
        name: str,
        scopes: list[Scope],
        actor: Actor,
        permissions: Permissions = UNRESTRICTED,
        expires_at: datetime | None = None,
        address: str | None = None,
        nonce: str = "",
    ) -> tuple["ManagementKey", KeyString]:
        """Create a management key and return it with its key string, which is not stored.

        `permissions` are the widest that API keys made with it may have. Raises `NameTaken`,
        `TooManyManagementKeys` or `AlreadyCreated`; then nothing is created.
        """
        key_string = keystring.generate(prefix=settings.MANAGEMENT_KEY_PREFIXES[0])
        with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
            SpentNonce.objects.spend(nonce)
            if self.for_team(locked).filter(name=name).exists():
                raise NameTaken
            if self.for_team(locked).count() >= MAX_PER_TEAM:
                raise TooManyManagementKeys
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
    """It may do what its scopes allow and its owner may do in the portal at that moment."""

    team = models.ForeignKey(Team, models.PROTECT, related_name="management_keys")
    owner = models.ForeignKey(User, models.PROTECT, related_name="management_keys")
    name = models.CharField(max_length=64, validators=[require_printable, require_no_key])
    scopes = models.JSONField(default=list)
    allowed_models = models.JSONField(
        default=list,
        blank=True,
        help_text="Models that keys made with it may call at most. Empty: all.",
    )
    endpoints = models.CharField(max_length=16, choices=Endpoints, default=Endpoints.ALL)
    allowed_networks = models.JSONField(default=list, blank=True)
    public_id = models.CharField(max_length=8, unique=True, editable=False)
    prefix = models.CharField(max_length=32)
    digest = models.BinaryField(max_length=32, unique=True)
    last4 = models.CharField(max_length=4)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, editable=False)
    last_used_address = models.GenericIPAddressField(null=True, editable=False)

    permissions = PermissionsColumns()
    """The widest permissions of keys that are made or changed with it."""

    read_at: datetime
    """Set by `with_read_at`; on SQLite to the millisecond."""

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
    def is_ownerless(self) -> bool:
        teams = {membership.team_id for membership in self.owner.memberships.all()}
        return not self.owner.is_active or self.team_id not in teams

    @property
    def membership(self) -> Membership:
        """The owner's current membership in the team. Raises `Membership.DoesNotExist`."""
        return Membership.objects.select_related("team", "user").get(
            team=self.team_id, user=self.owner_id
        )

    def record_use(self, address: str | None) -> None:
        """Store time and IP address, at most once a minute, so that few reads cost a write."""
        if self.last_used_at is None or self.last_used_at < self.read_at - LAST_USE_INTERVAL:
            ManagementKey.objects.filter(pk=self.pk).update(
                last_used_at=self.read_at,
                last_used_address=(address or "").partition("%")[0] or None,
            )

    def revoke(self, *, actor: Actor, address: str | None = None) -> None:
        """Delete it. A request with it that has not committed yet changes nothing any more.

        Only for admins of the team: raises `PermissionDenied` or `Outsider`. Raises
        `ManagementKey.DoesNotExist` if it was deleted already.
        """
        # A write that is in progress with this key holds the lock on the team until it has ended.
        with lock_team(self.team, actor=actor, role=Role.ADMIN):
            locked = ManagementKey.objects.select_for_update(of=("self",)).get(pk=self.pk)
            locked._record(Action.MANAGEMENT_KEY_DELETED, actor, address)
            locked.delete()

    def _record(self, action: Action, actor: Actor, address: str | None) -> None:
        AuditEvent.objects.record(
            action, target=str(self), actor=actor, team=self.team, address=address
        )
