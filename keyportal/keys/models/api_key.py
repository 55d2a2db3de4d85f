"""API keys and their secrets. A key string is shown once, when it is issued; then only masked."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import ClassVar, Self, TypedDict, Unpack

from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import F, Max, Prefetch, Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.functional import cached_property
from django.views.decorators.debug import sensitive_variables

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.database.clock import database_now
from keyportal.keys import keystring
from keyportal.keys.exceptions import KeyLimitReached, NameTaken, NotAMember, PolicyViolation
from keyportal.keys.keystring import KeyString, require_no_key
from keyportal.keys.models.nonce import SpentNonce
from keyportal.keys.rules import policy
from keyportal.keys.rules.permissions import Endpoints, Permissions, PermissionsColumns
from keyportal.keys.rules.validators import require_printable
from keyportal.teams.access import (
    Actor,
    HasOwner,
    Outsider,
    changeable,
    is_admin,
    lock_membership,
    lock_team,
    require_end,
)
from keyportal.teams.fields import LimitsField
from keyportal.teams.limits import Limits
from keyportal.teams.models import Membership, Role, Team, User

# The columns to sort the list by; the id decides between equal values.
SORT_COLUMNS = {
    "name": ("name",),
    "created": ("created_at", "pk"),
    "owner": ("owner__username", "pk"),
}


class KeyDetails(TypedDict, total=False):
    """The optional columns that describe a key. People set them when they create a key, and can
    change them later; the key works the same with any of them."""

    description: str
    tags: Sequence[str]


DETAILS = (*KeyDetails.__annotations__,)


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def for_team(self, team: Team) -> Self:
        return self.filter(team=team)

    def count_owned(self, team: Team, owner_id: int) -> int:
        """How many keys this person has in the team."""
        return self.for_team(team).filter(owner=owner_id).count()

    def lock_owned(self, owner: User, team_id: int | None) -> Self:
        """Lock the keys of a user who is deactivated or leaves, in one team or in all.

        Without the lock on the team: the caller holds that on the user or the membership, which
        others take after the team's.
        """
        keys = self.filter(owner=owner).select_related("team")
        in_team = keys if team_id is None else keys.filter(team=team_id)
        return in_team.order_by("pk").select_for_update(no_key=True, of=("self",))

    def changeable_by(self, membership: Membership) -> Self:
        return changeable(self, membership)

    def matching(self, text: str) -> Self:
        """Keys with `text` in their name or public id. A key string, masked or not, finds its key.

        `%` and `_` are ordinary characters.
        """
        public_id = keystring.find_public_id(text) or text
        condition = Q(name__icontains=text) | Q(public_id__contains=public_id)
        return self.filter(condition) if text else self

    def ids_sorted_by(self, sorting: str) -> "models.QuerySet[ApiKey, int]":
        """`sorting` is name, created, owner or last_used, with a minus for descending order.

        Only ids: among 100,000 keys, a page of ids is cheap to find, and a page of whole rows is
        not. Last use has no index, because that would make every flush of the meter slower. It is
        the last use of the present secrets: including deleted ones takes 1.5 times as long.
        """
        name, is_descending = sorting.lstrip("-"), sorting.startswith("-")
        keys = self.values("pk")
        if name == "last_used":
            keys = keys.annotate(last_used_at=Max("secrets__last_used_at"))
            last_used_at, by_id = F("last_used_at"), "-pk" if is_descending else "pk"
            if is_descending:
                keys = keys.order_by(last_used_at.desc(nulls_last=True), by_id)
            else:
                keys = keys.order_by(last_used_at.asc(nulls_first=True), by_id)
        else:
            keys = keys.order_by(*("-" * is_descending + name for name in SORT_COLUMNS[name]))
        return keys.values_list("pk", flat=True)

    def with_read_at(self) -> Self:
        """Annotate each key with the time at which it was read, by the database's clock."""
        return self.annotate(read_at=Now())

    def for_display(self) -> Self:
        """With owners and secrets, in the same number of queries for any number of keys."""
        secrets = Secret.objects.order_by("-id")
        keys = self.with_read_at().select_related("owner", "program_sign_in")
        return keys.prefetch_related(Prefetch("secrets", secrets), "owner__memberships")

    @sensitive_variables("key_string")
    def issue(
        self,
        *,
        team: Team,
        owner: User,
        name: str,
        actor: Actor,
        address: str | None = None,
        nonce: str = "",
        expires_at: datetime | None = None,
        permissions: Permissions | None = None,
        limits: Limits | None = None,
        is_managed: bool = False,
        **details: Unpack[KeyDetails],
    ) -> tuple["ApiKey", KeyString]:
        """Create a key and return it with its key string, which is stored nowhere.

        `nonce` is the one-use nonce of the form, if a form is the caller. Without `limits` the key
        gets the team's limits of new keys. Without `permissions` it may do all that the policy
        allows. Raises `KeyLimitReached`, `NameTaken`, `PolicyViolation`, `NotAMember` for an owner
        who could not use it, `NonceAlreadyUsed`, or what `lock_team` raises; nothing is created
        then. Members create keys for themselves only, and admins also for service accounts: raises
        `PermissionDenied`.
        """
        key_string = keystring.generate()
        try:
            # The lock makes concurrent calls wait for each other, so that the limit is exact.
            with lock_team(team, actor=actor, role=Role.MEMBER) as locked:
                SpentNonce.objects.spend(nonce)
                if self.for_team(locked).filter(name=name).exists():
                    raise NameTaken
                if self.for_team(locked).count() >= locked.max_keys:
                    raise KeyLimitReached(locked.max_keys)
                key = self.model(
                    team=locked,
                    owner=owner,
                    name=name,
                    public_id=key_string.public_id,
                    created_at=database_now(),  # By the clock of the expiry.
                    expires_at=expires_at,
                    limits=locked.key_limits if limits is None else limits,
                    is_managed=is_managed,
                    **details,
                )
                if owner != actor:
                    _require_right_to_issue(locked, owner, actor)
                    lock_owner(locked, owner)
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


def _require_right_to_issue(team: Team, owner: User, actor: Actor) -> None:
    """Attack: a key in the name of another person, whose key string the actor has."""
    if not is_admin(actor, team) or (isinstance(actor, User) and not owner.is_service_account):
        raise PermissionDenied("Only admins create keys for others, and for service accounts only.")


def _require_policy(key: "ApiKey", creator: Actor) -> None:
    """Check a new key, under the lock on its team."""
    role = None
    if isinstance(creator, User):
        role = Role(Membership.objects.get(team=key.team, user=creator).role)
    count_keys = partial(ApiKey.objects.count_owned, key.team, key.owner_id)
    violations = [
        *policy.ownership_violations(key.team.policy, role, count_keys),
        *policy.violations(key.team.policy, key),
    ]
    if violations:
        raise PolicyViolation(violations)


def lock_owner(team: Team, user: User) -> None:
    """Lock the membership of a new owner: one who leaves now, leaves before this or after it.

    Raises `NotAMember` if the key would not work. The caller has locked the team.
    """
    try:
        membership = lock_membership(team, user)
    except Outsider:
        raise NotAMember(user.get_username()) from None
    if not membership.is_at_least(Role.MEMBER):
        raise NotAMember(user.get_username())


class ApiKey(models.Model):
    """The key of a program. A rotation replaces its secret; its public id stays."""

    class DisabledBy(models.TextChoices):
        """A rotation enables a key again that a leak report disabled, and no other key."""

        OWNER = "owner", "Its owner"
        ADMIN = "admin", "An admin or operator"
        LEAK = "leak", "A leak report"

    team = models.ForeignKey(Team, models.PROTECT, related_name="keys")
    owner = models.ForeignKey(User, models.PROTECT, related_name="keys")
    name = models.CharField(max_length=64, validators=[require_printable, require_no_key])
    public_id = models.CharField(max_length=8, unique=True, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    expiry_set_at = models.DateTimeField(null=True, editable=False, help_text="Null: at creation.")
    disabled_at = models.DateTimeField(null=True, blank=True)
    disabled_by = models.CharField(
        max_length=8, choices=DisabledBy, blank=True, editable=False, help_text="Empty: enabled."
    )
    is_managed = models.BooleanField(
        default=False,
        help_text="Only admins and operators can change its permissions, limits, expiry and owner, "
        "or enable it. Its owner can use, edit, rotate, disable and delete it.",
    )
    reported_at = models.DateTimeField(
        null=True, editable=False, help_text="When it was reported as leaked."
    )
    description = models.CharField(max_length=500, blank=True, validators=[require_no_key])
    tags = models.JSONField(default=list, blank=True)
    allowed_models = models.JSONField(
        default=list,
        blank=True,
        help_text="Names of served models, or patterns such as public/*. Empty: all.",
    )
    endpoints = models.CharField(max_length=16, choices=Endpoints, default=Endpoints.ALL)
    allowed_networks = models.JSONField(
        default=list, blank=True, help_text="Allowed networks (CIDR). Empty: all."
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
            # A job looks for keys that expire soon, every few minutes. Most keys never expire.
            models.Index(
                fields=["expires_at"],
                name="apikey_by_expiry",
                condition=Q(expires_at__isnull=False),
            ),
            # Each page of a team checks for leaked keys. Nearly all keys are not leaked.
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
        """The newest secret. No query if the key comes from `for_display`.

        By id, which is in order of creation because of the lock on the key. `created_at` may not
        be: the clocks of the hosts may differ.
        """
        return max(self.secrets.all(), key=lambda secret: secret.pk)

    @property
    def masked(self) -> str:
        current = self.current_secret
        return keystring.mask(current.prefix, self.public_id, current.last4)

    @cached_property
    def read_at(self) -> datetime:
        """By the database's clock, as in verdicts. No query for a key of `with_read_at`."""
        return database_now()

    @property
    def has_expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= self.read_at

    @property
    def has_service_account(self) -> bool:
        """Whether its owner is a service account."""
        return self.owner.is_service_account

    @property
    def is_ownerless(self) -> bool:
        """The owner was deactivated or left the team, so the key does not work."""
        teams = {membership.team_id for membership in self.owner.memberships.all()}
        return not self.owner.is_active or self.team_id not in teams

    @property
    def last_used_secret(self) -> "Secret | None":
        """The present secret with the latest use; None if no present secret was used."""
        used = [secret for secret in self.secrets.all() if secret.last_used_at]
        return max(used, key=lambda secret: secret.last_used_at, default=None)  # type: ignore[arg-type,return-value]  # narrowed above

    def revoke(self, *, actor: Actor, address: str | None = None) -> None:
        """Delete the key. No request that starts after this returns is served with it.

        Raises `ApiKey.DoesNotExist` if the key was deleted in the meantime, and what `lock_key`
        raises.
        """
        # Because of the lock, only one of two concurrent deletions writes an audit row.
        with lock_key(self, actor=actor, right=require_end) as key:
            key.delete_locked(actor=actor, address=address)

    def delete_locked(self, *, actor: Actor, address: str | None) -> None:
        """The caller has locked the key, and judged the actor."""
        Tombstone.objects.bulk_create(
            secret.tombstone(self, actor) for secret in Secret.objects.lock_for_key(self)
        )
        AuditEvent.objects.record(
            Action.KEY_DELETED, key=self, actor=actor, team=self.team, address=address
        )
        self.delete()

    @property
    def is_of_program(self) -> bool:
        """Whether a program got it by signing in. No query if the key comes from `for_display`."""
        return getattr(self, "program_sign_in", None) is not None


@contextmanager
def lock_key(
    key: ApiKey, *, actor: Actor, right: Callable[[Membership, HasOwner], None]
) -> Iterator[ApiKey]:
    """Open a transaction, lock the key and give its current values.

    `right` is `require_change` or `require_end`. It judges an actor who is a member by the role and
    the owner of this moment: raises `PermissionDenied`, `Outsider`, or `ApiKey.DoesNotExist` if the
    key was deleted in the meantime. There is no other way to lock a key.

    The team is locked first, as when a key is created: taking the two locks in different orders
    would be a deadlock.
    """
    try:
        team_lock = lock_team(key.team, actor=actor, role=Role.VIEWER)
        with team_lock as team:
            row = (
                ApiKey.objects.select_related("team", "owner")
                .select_for_update(no_key=True, of=("self",))
                .get(pk=key.pk)
            )
            if isinstance(actor, User):
                right(Membership.objects.get(team=team, user=actor), row)
            yield row
    except Team.DoesNotExist:
        raise ApiKey.DoesNotExist from None


class SecretQuerySet(models.QuerySet["Secret"]):
    def lock_for_key(self, key: ApiKey) -> Self:
        """Lock the secrets of a key, the oldest first.

        The meter of the gateway updates their last use in the same order, which avoids deadlocks.
        """
        return self.filter(key=key).order_by("pk").select_for_update()


class SecretManager(models.Manager["Secret"]):
    def get_queryset(self) -> SecretQuerySet:
        """Secrets with `read_at`, the time of the query by the database's clock.

        The gateway compares expiry with the same clock; the clocks of the hosts may differ.
        """
        secrets = SecretQuerySet(self.model, using=self._db)
        return secrets.annotate(read_at=Now())  # type: ignore[no-redef]  # declared on the model


class Secret(models.Model):
    """The secret part of a key string, as a digest: the gateway looks it up for each request.

    A key has one, or two during the grace period of a rotation.
    """

    key = models.ForeignKey(ApiKey, models.CASCADE, related_name="secrets")
    digest = models.BinaryField(max_length=32, unique=True)
    prefix = models.CharField(max_length=32)
    last4 = models.CharField(max_length=4)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True, blank=True)
    expires_when_new_used = models.BooleanField(
        default=False, help_text="Expires when a newer secret of the key is first used."
    )
    last_used_at = models.DateTimeField(null=True, editable=False)
    last_used_address = models.GenericIPAddressField(null=True, editable=False)
    last_used_user_agent = models.CharField(max_length=200, blank=True, editable=False)

    read_at: datetime
    """Only on secrets from the database. On SQLite it is exact to the millisecond."""

    objects = SecretManager.from_queryset(SecretQuerySet)()

    def __str__(self) -> str:
        return f"…{self.last4}"

    def tombstone(self, key: ApiKey, actor: Actor, *, is_rotated: bool = False) -> Tombstone:
        """An unsaved tombstone with what is stored of the secret after its deletion."""
        return Tombstone(
            digest=self.digest,
            public_id=key.public_id,
            name=key.name,
            team_slug=key.team.history_slug,
            owner_id=key.owner_id,
            deleted_by_id=actor.pk if actor else None,
            is_rotated=is_rotated,
            deleted_at=self.read_at,
            last_used_at=self.last_used_at,
            last_used_address=self.last_used_address,
            last_used_user_agent=self.last_used_user_agent,
        )
