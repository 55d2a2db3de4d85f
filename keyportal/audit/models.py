"""What happened. Rows here name things as text, without foreign keys, to outlive what they name."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, NoReturn, Protocol, Self

from django.db import models

from keyportal.teams.models import Team, User

TARGET_LENGTH = 200
VIA_LENGTH = 100


class HasPublicId(Protocol):
    """A key, of which this app knows no more than its public id and how it is shown."""

    public_id: str


_via: ContextVar[str] = ContextVar("via", default="")


@contextmanager
def acting_via(what: str) -> Iterator[None]:
    """Rows that are written meanwhile say that their actor acted through this, such as a
    management key: whatever writes them need not know, and can't forget."""
    token = _via.set(what[:VIA_LENGTH])
    try:
        yield
    finally:
        _via.reset(token)


class Action(models.TextChoices):
    """`subject:what-happened`. A retired action stays listed, because old rows carry it."""

    SIGNED_IN = "user:signed-in", "Signed in"
    SIGN_IN_FAILED = "user:sign-in-failed", "Sign-in failed"
    KEY_CREATED = "key:created", "Key created"
    KEY_DELETED = "key:deleted", "Key deleted"
    KEY_REFUSED_BY_LIMIT = "key:refused-by-limit", "Key refused: limit reached"
    KEY_CHANGED = "key:changed", "Key changed"
    KEY_DISABLED = "key:disabled", "Key disabled"
    KEY_ENABLED = "key:enabled", "Key enabled"
    KEY_MANAGED = "key:managed", "Key managed by an admin"
    KEY_UNMANAGED = "key:unmanaged", "Key no longer managed by an admin"
    KEY_HANDED_OVER = "key:handed-over", "Key handed over"
    KEY_ROTATED = "key:rotated", "Key rotated"
    KEY_OLD_SECRET_ENDED = "key:old-secret-ended", "Old secret ended"
    KEY_REMINDED = "key:expiry-reminded", "Reminded of expiry"
    KEY_REPORTED = "key:reported-leaked", "Key reported as leaked"
    KEY_MANY_NETWORKS = "key:used-from-many-networks", "Key used from many networks"
    KEY_REFUSED_OFTEN = "key:refused-often", "Key refused many times"
    KEY_USED_AFTER_DELETION = "key:used-after-deletion", "Key used after its deletion"
    MANAGEMENT_KEY_CREATED = "management-key:created", "Management key created"
    MANAGEMENT_KEY_DELETED = "management-key:deleted", "Management key deleted"
    TEAM_CHANGED = "team:changed", "Team changed"
    CALL_ENDED = "call:ended", "Call ended"


class AppendOnlyError(TypeError):
    """Somebody tried to change or remove history."""


class AuditQuerySet(models.QuerySet["AuditEvent"]):
    def for_team(self, team: Team) -> Self:
        """Newest first; the id decides between rows of one instant."""
        return self.filter(team_slug=team.slug).order_by("-created_at", "-id")

    def for_key(self, public_id: str) -> Self:
        """The history of one key, among these."""
        return self.filter(public_id=public_id)

    def with_action(self, action: str) -> Self:
        """Only rows of this action; all of them for an empty one."""
        return self.filter(action=action) if action else self

    def record(
        self,
        action: Action,
        *,
        target: str = "",
        key: HasPublicId | None = None,
        actor: User | None = None,
        team: Team | None = None,
        address: str | None = None,
    ) -> "AuditEvent":
        """Write one row, inside the transaction of what it tells of.

        `target` is shown as it stands, so it never holds a secret; without one it is the key, in
        whose history the row then stands. `address` is the IP address that the request came
        from, or None for a command.
        """
        return self.create(
            action=action,
            target=(target or str(key))[:TARGET_LENGTH],
            public_id=key.public_id if key else "",
            actor_id=actor.pk if actor else None,
            actor=actor.get_username() if actor else "",
            via=_via.get(),
            team_slug=team.slug if team else "",
            # A link-local peer comes with its interface (`fe80::1%eth0`), which is no address.
            address=(address or "").partition("%")[0] or None,
        )

    def record_changes(
        self, action: Action, *, changes: Iterable[str], target: str = "", **who: Any
    ) -> None:
        """`target: change, change` in as few rows as hold it, so that no change is cut off: one
        that is longer than a row goes on in the next.

        The rest is as `record` takes it, the key of which this tells included.
        """
        target = target or str(who["key"])
        room = TARGET_LENGTH - len(f"{target}: ")
        for told in _joined(changes, room):
            self.record(action, target=f"{target}: {told}", **who)

    def update(self, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError("Audit rows are never changed.")

    def delete(self) -> NoReturn:
        raise AppendOnlyError("Audit rows are never deleted.")


def _joined(changes: Iterable[str], room: int) -> Iterator[str]:
    """The changes, divided by commas, in texts of at most `room` characters."""
    told = ""
    for change in changes:
        for part in textwrap.wrap(change, room, break_on_hyphens=False):
            longer = f"{told}, {part}" if told else part
            if len(longer) > room:
                yield told
                longer = part
            told = longer
    if told:
        yield told


class AuditEvent(models.Model):
    """One thing that somebody did, as it was at the time."""

    created_at = models.DateTimeField(auto_now_add=True)
    action = models.CharField(max_length=40, choices=Action)
    actor_id = models.BigIntegerField(null=True, help_text="The user's id; null: a command.")
    actor = models.CharField(max_length=150, blank=True, help_text="The user's name at the time.")
    via = models.CharField(
        max_length=VIA_LENGTH, blank=True, help_text="The actor's management key; empty: none."
    )
    team_slug = models.CharField(max_length=64, blank=True)
    target = models.CharField(max_length=TARGET_LENGTH)
    public_id = models.CharField(max_length=8, blank=True, help_text="Of the key it tells of.")
    address = models.GenericIPAddressField(null=True)

    objects = AuditQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [
            models.Index(fields=["team_slug", "-created_at", "-id"], name="audit_by_team"),
            models.Index(
                fields=["public_id", "-created_at", "-id"],
                name="audit_by_key",
                condition=~models.Q(public_id=""),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnlyError("Audit rows are never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError("Audit rows are never deleted.")

    @property
    def is_observed(self) -> bool:
        """What the gateway saw by itself; nobody did it here."""
        return self.action in {
            Action.KEY_MANY_NETWORKS,
            Action.KEY_REFUSED_OFTEN,
            Action.KEY_USED_AFTER_DELETION,
        }

    @property
    def deleted_key(self) -> str:
        """The public id of the key whose deletion this tells of; empty for everything else."""
        found = re.search(r"\((\w{8})\)\Z", self.target)
        return found[1] if found and self.action == Action.KEY_DELETED else ""


class Tombstone(models.Model):
    """A deleted key's secret: its digest still tells whose key was refused. One row a secret.

    What came last and what came after is written by the gateway's meter: a receipt of deletion.
    """

    digest = models.BinaryField(max_length=32, unique=True)
    public_id = models.CharField(max_length=8, db_index=True)
    name = models.CharField(max_length=64)
    team_slug = models.CharField(max_length=64)
    owner_id = models.BigIntegerField(help_text="The owner's id as a user.")
    deleted_at = models.DateTimeField(auto_now_add=True)
    deleted_by_id = models.BigIntegerField(null=True, help_text="A user's id; null: a command.")
    is_rotated = models.BooleanField(
        default=False, help_text="A rotation ended this secret; its key went on."
    )
    last_used_at = models.DateTimeField(null=True, help_text="The last request that was served.")
    last_used_ip = models.GenericIPAddressField(null=True)
    last_used_agent = models.CharField(max_length=200, blank=True)
    refused = models.BigIntegerField(default=0, help_text="Requests refused since.")
    refused_at = models.DateTimeField(null=True)
    ended = models.BigIntegerField(default=0, help_text="Calls that ran and were cut.")

    def __str__(self) -> str:
        return self.public_id


class DeletedUser(models.Model):
    """The last name of a deleted user, whose id still stands in history. No id is given again."""

    user_id = models.BigIntegerField(primary_key=True)
    username = models.CharField(max_length=150)

    def __str__(self) -> str:
        return self.username
