"""Rotation: a new secret for a key that stays the same key.

Public id, history, permissions and limits stay. At most two secrets are live at a time. An old
secret is deleted and leaves a tombstone, as the secret of a deleted key does.
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
from keyportal.keys.exceptions import AlreadyRotating
from keyportal.keys.keystring import KeyString
from keyportal.keys.models import ApiKey, Secret, SpentNonce, lock_key
from keyportal.teams.access import Actor, require_change


class GracePeriod(models.TextChoices):
    """How long the old secret still works after a rotation."""

    NOW = "now", "Not at all: it stops working now"
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
    """The secrets with which the key works at present, the newest first."""
    return _live(key.secrets.all())


def _live(secrets: Iterable[Secret]) -> list[Secret]:
    newest_first = sorted(secrets, key=lambda secret: secret.pk, reverse=True)
    return [secret for secret in newest_first if _is_live(secret, newest_first[0])]


def _is_live(secret: Secret, newest: Secret) -> bool:
    if secret.expires_at is not None and secret.expires_at <= secret.read_at:
        return False
    is_replaced = secret != newest and newest.last_used_at is not None
    return not (secret.expires_when_new_used and is_replaced)


@sensitive_variables("key_string")
def rotate(
    key: ApiKey,
    grace: GracePeriod,
    *,
    actor: Actor,
    address: str | None = None,
    nonce: str = "",
) -> KeyString:
    """Give the key a new secret and return the new key string, which is stored nowhere.

    `nonce` is the one-use nonce of the form, if a form is the caller. Raises `AlreadyRotating` if
    two secrets are live and the old one shall have a grace period, `NonceAlreadyUsed`, or
    `ApiKey.DoesNotExist`.
    """
    with lock_key(key, actor=actor, right=require_change) as row:
        SpentNonce.objects.spend(nonce)
        secrets = [*Secret.objects.lock_for_key(row)]
        live = _live(secrets)
        if len(live) > 1 and grace != GracePeriod.NOW:
            raise AlreadyRotating
        old = live[0] if live and grace != GracePeriod.NOW else None
        _delete_secrets([secret for secret in secrets if secret != old], row, actor)
        if old is not None:
            _set_grace_period(old, grace)
        key_string = keystring.generate(row.public_id)
        new = Secret.objects.create(
            key=row,
            prefix=key_string.prefix,
            digest=keystring.digest(key_string.text.encode()),
            last4=key_string.last4,
        )
        if row.reported_at is not None:
            # If this host's clock is behind, the new secret would look older than the leak report.
            after = max(secrets[0].read_at, row.reported_at + timedelta.resolution)
            Secret.objects.filter(pk=new.pk).update(created_at=after)
        AuditEvent.objects.record(
            Action.KEY_ROTATED,
            target=f"{row}: the old secret still works: {grace.label.lower()}",
            key=row,
            actor=actor,
            team=row.team,
            address=address,
        )
        _close_leak_report_if_over(row, actor, address)
    return key_string


def revoke_old_secret(key: ApiKey, *, actor: Actor, address: str | None = None) -> ApiKey:
    """Delete the old secret before its grace period is over.

    No request that starts after this is served with it.
    """
    with lock_key(key, actor=actor, right=require_change) as row:
        *old, _ = secrets = [*Secret.objects.lock_for_key(row)]
        if _live(secrets)[1:]:
            AuditEvent.objects.record(
                Action.KEY_OLD_SECRET_DELETED,
                key=row,
                actor=actor,
                team=row.team,
                address=address,
            )
        _delete_secrets(old, row, actor)
        _close_leak_report_if_over(row, actor, address)
    return row


def delete_expired_secrets(*, should_continue: Callable[[], bool] = lambda: True) -> int:
    """Delete the expired secrets of all keys, as long as `should_continue()` is true.

    Returns how many.

    They are refused already. But a wrong clock or a mistake in a statement could make a remaining
    row valid again; and the tombstone shows who still sends the old secret.
    """
    count = 0
    for key in [*_keys_with_expired_secrets()]:
        if not should_continue():
            break
        with suppress(ApiKey.DoesNotExist):
            count += _delete_expired_secrets_of(key)
    return count


def _keys_with_expired_secrets() -> QuerySet[ApiKey]:
    newer = Secret.objects.filter(key=OuterRef("key"), pk__gt=OuterRef("pk"))
    is_replaced = Q(expires_when_new_used=True) & Exists(newer.filter(last_used_at__isnull=False))
    # The newest secret stays, because pages show the key by it.
    expired = Secret.objects.filter(Q(expires_at__lte=Now()) | is_replaced, Exists(newer))
    return ApiKey.objects.filter(pk__in=expired.values("key")).order_by("pk")


def _delete_expired_secrets_of(key: ApiKey) -> int:
    with lock_key(key, actor=None, right=require_change) as row:
        *older, newest = Secret.objects.lock_for_key(row)
        expired = [secret for secret in older if not _is_live(secret, newest)]
        if expired:
            target = f"{row}: its grace period was over"
            AuditEvent.objects.record(
                Action.KEY_OLD_SECRET_DELETED, target=target, key=row, actor=None, team=row.team
            )
            _delete_secrets(expired, row, None)
            _close_leak_report_if_over(row, None, None)
    return len(expired)


def _close_leak_report_if_over(key: ApiKey, actor: Actor, address: str | None) -> None:
    """A leak report is over when all secrets are newer than it.

    A key that the report disabled works again; a key that a person disabled stays disabled.
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
        old.expires_when_new_used = True
    else:
        expires_at = old.read_at + _DURATIONS[grace]
        old.expires_at = min(expires_at, old.expires_at or expires_at)
    old.save(update_fields=["expires_when_new_used", "expires_at"])


def _delete_secrets(secrets: list[Secret], key: ApiKey, actor: Actor) -> None:
    Tombstone.objects.bulk_create(
        secret.tombstone(key, actor, is_rotated=True) for secret in secrets
    )
    Secret.objects.filter(pk__in=[secret.pk for secret in secrets]).delete()
