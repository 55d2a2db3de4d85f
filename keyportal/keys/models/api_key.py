"""API keys: issued once, masked ever after, deleted for good."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import ClassVar, Self

from django.db import models, transaction
from django.db.models import F, Max, Prefetch, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.functional import cached_property
from django.views.decorators.debug import sensitive_variables

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import keystring
from keyportal.keys.exceptions import KeyLimitReached, NameTaken, PolicyViolation
from keyportal.keys.keystring import KeyString
from keyportal.keys.models.nonce import SpentNonce
from keyportal.keys.rules import policy
from keyportal.keys.rules.permissions import Endpoints, Permissions, PermissionsColumns
from keyportal.keys.rules.validators import require_no_key, require_printable
from keyportal.teams.access import changeable
from keyportal.teams.fields import LimitsField
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User, lock_team

# What the list can be sorted by; the id decides where the rest is equal.
SORT_COLUMNS = {
    "name": ("name",),
    "created": ("created_at", "pk"),
    "owner": ("owner__username", "pk"),
}


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def for_team(self, team: Team) -> Self:
        return self.filter(team=team)

    def count_owned(self, team: Team, owner_id: int) -> int:
        """How many keys this person has in the team."""
        return self.for_team(team).filter(owner=owner_id).count()

    def changeable_by(self, membership: Membership) -> Self:
        return changeable(self, membership)

    def matching(self, text: str) -> Self:
        """Those whose name, or public id, holds `text`, or whose key does, masked or not.

        `%` and `_` are only characters.
        """
        public_id = keystring.find_public_id(text) or text
        found = Q(name__icontains=text) | Q(public_id__contains=public_id)
        return self.filter(found) if text else self

    def ids_sorted_by(self, sorting: str) -> "models.QuerySet[ApiKey, int]":
        """`sorting` is name, created, owner or last_used, with a minus for the greatest first.

        Ids alone, because a page of them is cheap to find among 100,000 keys; whole rows are not.
        Last use is sorted without an index: one would make every flush of the meter dearer. It is
        that of the living secrets: to ask for the ended ones of all keys takes half as long again.
        """
        name, falling = sorting.lstrip("-"), sorting.startswith("-")
        keys = self.values("pk")
        if name == "last_used":
            keys = keys.annotate(used=Max("secrets__last_used_at"))
            used = F("used")
            first = used.desc(nulls_last=True) if falling else used.asc(nulls_first=True)
            keys = keys.order_by(first, "-pk" if falling else "pk")
        else:
            keys = keys.order_by(*("-" * falling + column for column in SORT_COLUMNS[name]))
        return keys.values_list("pk", flat=True)

    def for_display(self) -> Self:
        """With owner and secrets: a constant number of queries for any number of rows."""
        live = Secret.objects.order_by("-id")
        return self.select_related("owner").prefetch_related(
            Prefetch("secrets", live), "owner__memberships"
        )

    @sensitive_variables("key_string")
    def issue(
        self,
        *,
        team: Team,
        owner: User,
        name: str,
        actor: User | None = None,
        address: str | None = None,
        nonce: str = "",
        expires_at: datetime | None = None,
        permissions: Permissions | None = None,
        limits: Limits | None = None,
        description: str = "",
        tags: Sequence[str] = (),
        is_managed: bool = False,
    ) -> tuple["ApiKey", KeyString]:
        """Create a key and return it with its plaintext, which exists nowhere else.

        `nonce` is the one-use mark of the form that asked, if a form did. Without `limits` the key
        starts with the team's. Without `permissions` it may do what the team's policy lets a key
        do. Raises `KeyLimitReached`, `NameTaken`, `PolicyViolation` or `AlreadyCreated`, each after
        creating nothing.
        """
        key_string = keystring.generate()
        try:
            # The lock makes concurrent creates queue up, so that the limit is exact.
            with lock_team(team) as locked:
                SpentNonce.objects.spend(nonce)
                if self.for_team(locked).filter(name=name).exists():
                    raise NameTaken
                if self.for_team(locked).count() >= locked.key_limit:
                    raise KeyLimitReached(locked.key_limit)
                key = self.model(
                    team=locked,
                    owner=owner,
                    name=name,
                    public_id=key_string.public_id,
                    expires_at=expires_at,
                    limits=locked.key_limits if limits is None else limits,
                    description=description,
                    tags=list(tags),
                    is_managed=is_managed,
                )
                key.permissions = permissions or policy.widest_permissions(locked.policy)
                _require_policy(key, actor)
                key.save(force_insert=True)
                Secret.objects.create(
                    key=key,
                    prefix=key_string.prefix,
                    digest=keystring.digest(key_string.text.encode()),
                    last4=key_string.last4,
                )
                AuditEvent.objects.record(
                    Action.KEY_CREATED, key=key, actor=actor, team=locked, address=address
                )
        except KeyLimitReached:
            AuditEvent.objects.record(
                Action.KEY_REFUSED_BY_LIMIT, target=name, actor=actor, team=team, address=address
            )
            raise
        return key, key_string


def _require_policy(key: "ApiKey", maker: User | None) -> None:
    """Of a new key, under the lock on its team. Without a maker, an operator makes it."""
    role = None if maker is None else _role_of(maker, key.team)
    broken = [
        *policy.ownership_violations(
            key.team.policy, role, partial(ApiKey.objects.count_owned, key.team, key.owner_id)
        ),
        *policy.violations(key.team.policy, key),
    ]
    if broken:
        raise PolicyViolation(broken)


def _role_of(maker: User, team: Team) -> Role:
    """Locked: whoever leaves the team at this moment leaves before the key is made, or after it.

    Somebody without a role here is not taken for an operator, for whom some rules don't hold.
    """
    theirs = Membership.objects.select_for_update(no_key=True)
    found = theirs.filter(team=team, user=maker).first()
    if found is None:
        raise PolicyViolation(["Keys of this team are made by its members."])
    return Role(found.role)


class ApiKey(models.Model):
    """What a program calls with. Its secrets come and go; its public id stays."""

    class DisabledBy(models.TextChoices):
        """A rotation enables again what a report of a leak has disabled, and nothing else."""

        OWNER = "owner", "Its owner"
        ADMIN = "admin", "An admin or operator"
        LEAK = "leak", "A report of a leak"

    team = models.ForeignKey(Team, models.PROTECT, related_name="keys")
    owner = models.ForeignKey(User, models.PROTECT, related_name="keys")
    name = models.CharField(max_length=64, validators=[require_printable, require_no_key])
    public_id = models.CharField(max_length=8, unique=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    expiry_set_at = models.DateTimeField(
        null=True, editable=False, help_text="Null: when it was created."
    )
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_by = models.CharField(
        max_length=8, choices=DisabledBy, blank=True, editable=False, help_text="Empty: enabled."
    )
    is_managed = models.BooleanField(
        default=False,
        help_text="Only admins and operators change its permissions, limits, expiry and owner, or "
        "enable it. Its owner may use, edit, rotate, disable and delete it.",
    )
    reported_at = models.DateTimeField(
        null=True, editable=False, help_text="Since when it is known to have leaked."
    )
    description = models.CharField(max_length=500, blank=True, validators=[require_no_key])
    tags = models.JSONField(default=list, blank=True)
    allowed_models = models.JSONField(
        default=list,
        blank=True,
        help_text="Served names, or patterns such as public/*, that the key may call. Empty: all.",
    )
    endpoints = models.CharField(max_length=16, choices=Endpoints, default=Endpoints.ALL)
    networks = models.JSONField(
        default=list, blank=True, help_text="Source addresses (CIDR). Empty: from everywhere."
    )
    limits = LimitsField()

    permissions = PermissionsColumns()

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team", "name"],
                name="apikey_name_unique_in_team",
                violation_error_message="A key with this name already exists in the team.",
            ),
            models.CheckConstraint(condition=~Q(name=""), name="apikey_name_not_empty"),
            models.CheckConstraint(
                condition=Q(endpoints__in=Endpoints.values), name="apikey_endpoints_known"
            ),
            models.CheckConstraint(
                condition=Q(disabled_at=None, disabled_by="")
                | Q(disabled_at__isnull=False, disabled_by__in=["owner", "admin", "leak"]),
                name="apikey_disabled_by_whom",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["team", "-created_at", "-id"], name="apikey_newest_in_team"),
            # Asked every few minutes which ones end soon; most never do.
            models.Index(
                fields=["expires_at"],
                name="apikey_by_expiry",
                condition=Q(expires_at__isnull=False),
            ),
            # Each page of a team asks whether one of its keys leaked; nearly none ever has.
            models.Index(
                fields=["team"],
                name="apikey_reported_in_team",
                condition=Q(reported_at__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} ({self.public_id})"

    @cached_property
    def current_secret(self) -> "Secret":
        """The newest. Read from what `for_display` fetched, where it did.

        By the id, which the lock on the key puts in order; the hosts' clocks may differ.
        """
        return max(self.secrets.all(), key=lambda found: found.pk)

    @property
    def masked(self) -> str:
        current = self.current_secret
        return keystring.mask(current.prefix, self.public_id, current.last4)

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= timezone.now()

    @property
    def is_ownerless(self) -> bool:
        """The owner was deactivated or left the team, so the key has stopped working."""
        teams = {membership.team_id for membership in self.owner.memberships.all()}
        return not self.owner.is_active or self.team_id not in teams

    @property
    def last_used_secret(self) -> "Secret | None":
        """The secret that was used last, with time, address and agent; None if none ever was."""
        used = [found for found in self.secrets.all() if found.last_used_at]
        return max(used, key=lambda found: found.last_used_at, default=None)  # type: ignore[arg-type,return-value]  # narrowed above

    def revoke(self, *, actor: User | None, address: str | None = None) -> None:
        """Delete the key. No request that starts after this returns is served with it.

        Raises `ApiKey.DoesNotExist` when somebody else was faster.
        """
        with transaction.atomic():
            # The lock lets one of two deletions write its audit row, and the other none.
            whole = ApiKey.objects.select_related("team", "owner")
            key = whole.select_for_update(no_key=True, of=("self",)).get(pk=self.pk)
            Tombstone.objects.bulk_create(
                found.tombstone(key, actor) for found in Secret.objects.lock_for_key(key)
            )
            AuditEvent.objects.record(
                Action.KEY_DELETED, key=key, actor=actor, team=key.team, address=address
            )
            key.delete()


class SecretQuerySet(models.QuerySet["Secret"]):
    def lock_for_key(self, key: ApiKey) -> Self:
        """Those of a key that may end in this transaction, the oldest first.

        The gateway's meter notes their last uses in the same order, so the two never wait for each
        other in a circle.
        """
        return self.filter(key=key).order_by("pk").select_for_update()


class SecretManager(models.Manager["Secret"]):
    def get_queryset(self) -> SecretQuerySet:
        """Each with the time at which it was read: by the database's clock, as the gateway judges
        it, because the hosts' clocks may differ."""
        secrets = SecretQuerySet(self.model, using=self._db)
        return secrets.annotate(read_at=Now())  # type: ignore[no-redef]  # declared for its readers


class Secret(models.Model):
    """What the gateway looks up. One row a key, or two while a rotation overlaps."""

    key = models.ForeignKey(ApiKey, models.CASCADE, related_name="secrets")
    digest = models.BinaryField(max_length=32, unique=True)
    prefix = models.CharField(max_length=32)
    last4 = models.CharField(max_length=4)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    lasts_until_used = models.BooleanField(
        default=False, help_text="Ends when a newer secret of the key has been used."
    )
    last_used_at = models.DateTimeField(null=True, editable=False)
    last_used_ip = models.GenericIPAddressField(null=True, editable=False)
    last_used_agent = models.CharField(max_length=200, blank=True, editable=False)

    read_at: datetime
    """Only of one that was read; on SQLite to the millisecond."""

    objects = SecretManager.from_queryset(SecretQuerySet)()

    def __str__(self) -> str:
        return f"…{self.last4}"

    def tombstone(self, key: ApiKey, actor: User | None, *, is_rotated: bool = False) -> Tombstone:
        """What is kept of it when it goes, not yet saved."""
        return Tombstone(
            digest=self.digest,
            public_id=key.public_id,
            name=key.name,
            team_slug=key.team.slug,
            owner_id=key.owner_id,
            deleted_by_id=actor.pk if actor else None,
            is_rotated=is_rotated,
            last_used_at=self.last_used_at,
            last_used_ip=self.last_used_ip,
            last_used_agent=self.last_used_agent,
        )
