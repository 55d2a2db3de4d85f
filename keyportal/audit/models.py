"""Audit events and tombstones. They have no foreign keys, so they outlive what they refer to."""

import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Any, ClassVar, NoReturn, Protocol, Self

from django.db import models
from django.utils import timezone

from keyportal.audit.source import VIA_LENGTH, current_via
from keyportal.teams.access import Actor
from keyportal.teams.models import Team

TARGET_LENGTH = 200
VALUE_LENGTH = 600  # More than a description has.
SHARED_LENGTH = 20


class HasPublicId(Protocol):
    """An API key. This app needs only its public id and `str()`, and imports no key model."""

    public_id: str


class Action(models.TextChoices):
    """`subject:what-happened`. Never remove an action: old rows have it."""

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
    KEY_OLD_SECRET_DELETED = "key:old-secret-deleted", "Old secret deleted"
    KEY_REMINDED = "key:expiry-reminded", "Reminded of expiry"
    KEY_REPORTED = "key:reported-leaked", "Key reported as leaked"
    KEY_MANY_NETWORKS = "key:used-from-many-networks", "Key used from many networks"
    KEY_REFUSED_OFTEN = "key:refused-often", "Key refused many times"
    KEY_USED_AFTER_DELETION = "key:used-after-deletion", "Key used after its deletion"
    MANAGEMENT_KEY_CREATED = "management-key:created", "Management key created"
    MANAGEMENT_KEY_DELETED = "management-key:deleted", "Management key deleted"
    TEAM_CREATED = "team:created", "Team created"
    TEAM_CHANGED = "team:changed", "Team changed"
    TEAM_DELETED = "team:deleted", "Team deleted"
    USER_CHANGED = "user:changed", "User changed"
    MEMBER_CHANGED = "member:changed", "Member changed"
    INVITATION_SENT = "invitation:sent", "Invitation sent"
    INVITATION_REVOKED = "invitation:revoked", "Invitation revoked"
    INVITATION_ACCEPTED = "invitation:accepted", "Invitation accepted"
    CATALOG_CHANGED = "catalog:changed", "Model server or model changed"
    PROVIDER_CHANGED = "provider:changed", "Identity provider changed"
    CALL_ENDED = "call:ended", "Call ended"


class AppendOnlyError(TypeError):
    """Raised by code that changes or deletes an audit event."""


class AuditQuerySet(models.QuerySet["AuditEvent"]):
    def for_team(self, team: Team) -> Self:
        """Newest first; the id decides the order of events of the same time."""
        return self.filter(team_slug=team.history_slug).order_by("-created_at", "-id")

    def for_key(self, public_id: str) -> Self:
        """Only events of this key."""
        return self.filter(public_id=public_id)

    def with_action(self, action: str) -> Self:
        """Only events with this action; all events if it is empty."""
        return self.filter(action=action) if action else self

    def record(
        self,
        action: Action,
        *,
        target: str = "",
        key: HasPublicId | None = None,
        actor: Actor = None,
        team: Team | None = None,
        address: str | None = None,
    ) -> "AuditEvent":
        """Create one event. Call it in the transaction of the action itself.

        `target` is displayed, so it must not contain a secret; by default it is `str(key)`. With
        `key`, the event is also part of that key's history. `address` is the IP address of the
        request, or None for a command.
        """
        event = _event(action, target, key, actor, team, address)
        event.save(using=self.db, force_insert=True)
        return event

    def record_many(self, action: Action, keys: Iterable[HasPublicId], **fields: Any) -> None:
        """Create one event for each key. `fields` are further arguments of `record`."""
        self.bulk_create((_event(action, "", key, **fields) for key in keys), batch_size=1000)

    def record_changes(
        self, action: Action, *, changes: Iterable[str], target: str = "", **fields: Any
    ) -> None:
        """Create events with the target `target: change, change`.

        They are as few as the length of the column allows: what is too long for one event continues
        in the next. Only long values are cut. `fields` are further arguments of `record`.
        """
        target = target or str(fields["key"])
        max_length = TARGET_LENGTH - len(f"{target}: ")
        texts = _joined(map(_with_short_values, changes), max_length)
        self.bulk_create(_event(action, f"{target}: {text}", **fields) for text in texts)

    def update(self, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError("Audit events can't be changed.")

    def delete(self) -> NoReturn:
        raise AppendOnlyError("Audit events can't be deleted.")


def _with_short_values(change: str) -> str:
    """The change `label: before → now`, with values of at most VALUE_LENGTH characters each.

    Attack: a member edits a key with a hundred long patterns, and each time fills hundreds of rows.
    Another one hides what is new behind a long text that stays: the beginning that both values
    share is cut first.
    """
    if len(change) <= 2 * VALUE_LENGTH:
        return change
    label, colon, values = change.partition(": ")
    before, arrow, now = values.partition(" → ")
    pairs = zip(before, now, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    start = shared - SHARED_LENGTH if shared > 2 * SHARED_LENGTH else 0
    return f"{_cut(label)}{colon}{_cut(before, start)}{arrow}{_cut(now, start)}"


def _cut(text: str, start: int = 0) -> str:
    beginning = "…" if start else ""
    end = "…" if len(text) - start > VALUE_LENGTH else ""
    return f"{beginning}{text[start : start + VALUE_LENGTH]}{end}"


def _event(
    action: Action,
    target: str,
    key: HasPublicId | None = None,
    actor: Actor = None,
    team: Team | None = None,
    address: str | None = None,
) -> "AuditEvent":
    """Unsaved."""
    return AuditEvent(
        action=action,
        target=(target or str(key))[:TARGET_LENGTH],
        public_id=key.public_id if key else "",
        actor_id=actor.pk if actor else None,
        actor=actor.get_username() if actor else "",
        via=current_via(),
        team_slug=team.history_slug if team else "",
        # A link-local address has a zone (`fe80::1%eth0`), which the column doesn't accept.
        address=(address or "").partition("%")[0] or None,
    )


def _joined(changes: Iterable[str], max_length: int) -> Iterator[str]:
    """The changes, separated by commas, in texts of at most `max_length` characters."""
    text = ""
    for change in changes:
        for part in textwrap.wrap(change, max_length, break_on_hyphens=False):
            longer = f"{text}, {part}" if text else part
            if len(longer) > max_length:
                yield text
                longer = part
            text = longer
    if text:
        yield text


class AuditEvent(models.Model):
    """One action of a user, a command or the gateway, with the names of that time."""

    created_at = models.DateTimeField(auto_now_add=True)
    action = models.CharField(max_length=40, choices=Action)
    actor_id = models.BigIntegerField(null=True, help_text="The user's id. Null: a command.")
    actor = models.CharField(max_length=150, blank=True, help_text="The user's name at the time.")
    via = models.CharField(
        max_length=VIA_LENGTH,
        blank=True,
        help_text="The management key that the actor used. Empty: none.",
    )
    team_slug = models.CharField(max_length=64, blank=True)
    target = models.CharField(max_length=TARGET_LENGTH)
    public_id = models.CharField(
        max_length=8, blank=True, help_text="The public id of the key, if the event is about one."
    )
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
            models.Index(fields=["created_at"], name="audit_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise AppendOnlyError("Audit events can't be changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError("Audit events can't be deleted.")

    @property
    def is_observed(self) -> bool:
        """Whether the gateway detected this, so that the event has no actor."""
        return self.action in {
            Action.KEY_MANY_NETWORKS,
            Action.KEY_REFUSED_OFTEN,
            Action.KEY_USED_AFTER_DELETION,
        }

    @property
    def origin(self) -> str:
        """Where an event without an actor came from. The address of a sign-in can be unknown."""
        if self.address or self.action == Action.SIGN_IN_FAILED:
            return "not signed in"
        return "gateway" if self.is_observed else "command line"

    @property
    def deleted_key(self) -> str:
        """The public id of the deleted key, if this is the deletion of a key; else empty."""
        match = re.search(r"\((\w{8})\)\Z", self.target)
        return match[1] if match and self.action == Action.KEY_DELETED else ""


class Tombstone(models.Model):
    """The digest of a deleted secret, by which refused requests are still matched to its key.

    A key has one row for each of its secrets. The gateway's meter writes the last use and the later
    refusals, which the receipt of deletion displays.
    """

    digest = models.BinaryField(max_length=32, unique=True)
    public_id = models.CharField(max_length=8, db_index=True)
    name = models.CharField(max_length=64)
    team_slug = models.CharField(max_length=64)
    owner_id = models.BigIntegerField(help_text="The user id of the owner.")
    deleted_at = models.DateTimeField(
        default=timezone.now,
        editable=False,
        help_text="By the database's clock: after a restore it says which keys to delete again.",
    )
    deleted_by_id = models.BigIntegerField(null=True, help_text="The user's id. Null: a command.")
    is_rotated = models.BooleanField(
        default=False,
        help_text="The secret was replaced by a rotation; its key was not deleted then.",
    )
    last_used_at = models.DateTimeField(
        null=True, help_text="Time of the last request that was served."
    )
    last_used_address = models.GenericIPAddressField(null=True)
    last_used_user_agent = models.CharField(max_length=200, blank=True)
    refused_requests = models.BigIntegerField(
        default=0, help_text="Number of requests refused since the deletion."
    )
    last_refused_at = models.DateTimeField(null=True)
    ended_calls = models.BigIntegerField(
        default=0, help_text="Number of running calls that the deletion ended."
    )

    def __str__(self) -> str:
        return self.public_id


class DeletedUser(models.Model):
    """The last name of a deleted user, whose id is still in the history. Ids are never reused."""

    user_id = models.BigIntegerField(primary_key=True)
    username = models.CharField(max_length=150)

    def __str__(self) -> str:
        return self.username
