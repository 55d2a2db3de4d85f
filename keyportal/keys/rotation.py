"""Rotation: a new secret for a key that stays the same key. Never more than two live at a time.

Its public id, history, permissions and limits stay. What ends is deleted, as a key's secret is,
and leaves a tombstone.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta

from django.db import models
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.views.decorators.debug import sensitive_variables

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.keys import keystring
from keyportal.keys.changes import lock_key
from keyportal.keys.exceptions import AlreadyRotating
from keyportal.keys.keystring import KeyString
from keyportal.keys.models import ApiKey, Secret, SpentNonce
from keyportal.teams.models import User


class GracePeriod(models.TextChoices):
    """How long the old secret lives on."""

    NOW = "now", "Not at all: it ends now"
    HOUR = "1h", "For an hour"
    DAY = "24h", "For 24 hours"
    WEEK = "7d", "For 7 days"
    FIRST_USE = "first-use", "Until the new one is first used"


_DURATIONS = {
    GracePeriod.HOUR: timedelta(hours=1),
    GracePeriod.DAY: timedelta(days=1),
    GracePeriod.WEEK: timedelta(days=7),
}


def live_secrets(key: ApiKey) -> list[Secret]:
    """The newest first; those that would be let in, if their key is."""
    return _live(key.secrets.all())


def _live(secrets: Iterable[Secret]) -> list[Secret]:
    newest_first = sorted(secrets, key=lambda one: one.pk, reverse=True)
    return [one for one in newest_first if _is_live(one, newest_first[0])]


def _is_live(one: Secret, newest: Secret) -> bool:
    if one.expires_at is not None and one.expires_at <= one.read_at:
        return False
    return not (one.lasts_until_used and one != newest and newest.last_used_at is not None)


@sensitive_variables("key_string")
def rotate(
    key: ApiKey,
    grace: GracePeriod,
    *,
    actor: User | None,
    address: str | None = None,
    nonce: str = "",
) -> KeyString:
    """Give the key a new secret, and return its plaintext, which exists nowhere else.

    Raises `AlreadyRotating` when two live and the old one is to live on, `AlreadyCreated` when
    the form with this mark has done it before, and `ApiKey.DoesNotExist`.
    """
    with lock_key(key) as found:
        SpentNonce.objects.spend(nonce)
        secrets = [*Secret.objects.lock_for_key(found)]
        live = _live(secrets)
        if len(live) > 1 and grace != GracePeriod.NOW:
            raise AlreadyRotating
        old = live[0] if live and grace != GracePeriod.NOW else None
        _delete_secrets([one for one in secrets if one != old], found, actor)
        if old is not None:
            _set_grace_period(old, grace)
        key_string = keystring.generate(found.public_id)
        new = Secret.objects.create(
            key=found,
            prefix=key_string.prefix,
            digest=keystring.digest(key_string.text.encode()),
            last4=key_string.last4,
        )
        if found.reported_at is not None:
            # By a clock that is behind it would pass for one that was there when it leaked.
            after = max(secrets[0].read_at, found.reported_at + timedelta.resolution)
            Secret.objects.filter(pk=new.pk).update(created_at=after)
        AuditEvent.objects.record(
            Action.KEY_ROTATED,
            target=f"{found}: the old secret lives on: {grace.label.lower()}",
            key=found,
            actor=actor,
            team=found.team,
            address=address,
        )
        _close_leak_report_if_over(found, actor, address)
    return key_string


def revoke_old_secret(key: ApiKey, *, actor: User | None, address: str | None = None) -> ApiKey:
    """End what a rotation let live on. No request that starts after this is served with it."""
    with lock_key(key) as found:
        *old, _ = secrets = [*Secret.objects.lock_for_key(found)]
        if _live(secrets)[1:]:
            AuditEvent.objects.record(
                Action.KEY_OLD_SECRET_ENDED,
                key=found,
                actor=actor,
                team=found.team,
                address=address,
            )
        _delete_secrets(old, found, actor)
        _close_leak_report_if_over(found, actor, address)
    return found


def delete_expired_secrets(*, may_go_on: Callable[[], bool] = lambda: True) -> int:
    """Delete the secrets whose time is over, of all keys; how many they were.

    Nobody is served with them any more. A row that lies about could only come back to life, by a
    clock that is wrong or a mistake in a statement; and its tombstone tells who still uses it.
    """
    buried = 0
    for key in [*_keys_with_expired_secrets()]:
        if not may_go_on():
            break
        with suppress(ApiKey.DoesNotExist):
            buried += _delete_expired_secrets_of(key)
    return buried


def _keys_with_expired_secrets() -> QuerySet[ApiKey]:
    newer = Secret.objects.filter(key=OuterRef("key"), pk__gt=OuterRef("pk"))
    is_replaced = Q(lasts_until_used=True) & Exists(newer.filter(last_used_at__isnull=False))
    # The newest is what its key is shown by.
    ended = Secret.objects.filter(Q(expires_at__lte=Now()) | is_replaced, Exists(newer))
    return ApiKey.objects.filter(pk__in=ended.values("key")).order_by("pk")


def _delete_expired_secrets_of(key: ApiKey) -> int:
    with lock_key(key) as found:
        *older, newest = Secret.objects.lock_for_key(found)
        ended = [one for one in older if not _is_live(one, newest)]
        if ended:
            told = f"{found}: its time was over"
            AuditEvent.objects.record(
                Action.KEY_OLD_SECRET_ENDED, target=told, key=found, actor=None, team=found.team
            )
            _delete_secrets(ended, found, None)
            _close_leak_report_if_over(found, None, None)
    return len(ended)


def _close_leak_report_if_over(key: ApiKey, actor: User | None, address: str | None) -> None:
    """A leak is over when no secret is left that was there when it was reported.

    What the report disabled works again; what a person disabled stays so.
    """
    if key.reported_at is None or key.secrets.filter(created_at__lte=key.reported_at).exists():
        return
    if key.disabled_by == ApiKey.DisabledBy.LEAK:
        key.disabled_at, key.disabled_by = None, ""
        AuditEvent.objects.record(
            Action.KEY_ENABLED, key=key, actor=actor, team=key.team, address=address
        )
    key.reported_at = None
    key.save(update_fields=["reported_at", "disabled_at", "disabled_by"])


def _set_grace_period(old: Secret, grace: GracePeriod) -> None:
    if grace == GracePeriod.FIRST_USE:
        old.lasts_until_used = True
    else:
        end = old.read_at + _DURATIONS[grace]
        old.expires_at = min(end, old.expires_at or end)
    old.save(update_fields=["lasts_until_used", "expires_at"])


def _delete_secrets(ended: list[Secret], key: ApiKey, actor: User | None) -> None:
    Tombstone.objects.bulk_create(one.tombstone(key, actor, is_rotated=True) for one in ended)
    Secret.objects.filter(pk__in=[one.pk for one in ended]).delete()
