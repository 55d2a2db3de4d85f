"""Reminders: the owner of a key reads 14 and 3 days before that it will expire, and then that it
has.

A key is in one stage at a time, and each stage is told once. Told is only what came about while
the end was as it is: a key that is made for a week gets no mail at once that it ends in a week.
Who comes late tells the stage that it is by then, and nobody is told a week after the end.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from math import ceil
from typing import NamedTuple

from django.db import connection, transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from keyportal.activity.models import Action, AuditEvent
from keyportal.keys import mail
from keyportal.keys.models import ApiKey
from keyportal.keys.reminders import Reminder
from keyportal.teams.models import User

DAY = timedelta(days=1)
# Days before the end, and the days at which the next stage begins; what is urgent first.
STAGES = ((0, -7), (3, 0), (14, 3))

logger = logging.getLogger(__name__)


class Told(NamedTuple):
    """How many reminders were sent, and how many could not be: these are tried again."""

    sent: int = 0
    failed: int = 0


def due(days: int, until: int, now: datetime) -> QuerySet[ApiKey]:
    """Keys in this stage that are to be told of it.

    One that is disabled, or whose team is off, has no use that ends; enabled again, it is told.
    """
    settled = Reminder.objects.settled(now).filter(
        public_id=OuterRef("public_id"), expires_at=OuterRef("expires_at"), days=days
    )
    return (
        ApiKey.objects.filter(expires_at__gt=now + until * DAY, expires_at__lte=now + days * DAY)
        .filter(disabled_at=None, team__is_active=True)
        .alias(since=Coalesce("expiry_set_at", "created_at"))
        .filter(since__lt=F("expires_at") - days * DAY)
        .exclude(Exists(settled))
        .select_related("team", "owner")
        .order_by("expires_at", "pk")
    )


def remind(now: datetime | None = None, *, may_go_on: Callable[[], bool] = lambda: True) -> Told:
    """Send what is due and not yet sent; `now` stops the clock.

    Any number may do this at once. A mail server that is down ends it, until the next time.
    """
    sent = failed = 0
    for days, until in STAGES:
        for pk in [*due(days, until, now or timezone.now()).values_list("pk", flat=True)]:
            if not may_go_on():
                return Told(sent, failed)
            try:
                was_sent = _remind(pk, days, until, now)
            except mail.MailServerDown as error:
                logger.warning("Reminders wait for the mail server (EMAIL_URL): %s", error)
                return Told(sent, failed + 1)
            sent += was_sent is True
            failed += was_sent is False
    return Told(sent, failed)


def _remind(pk: int, days: int, until: int, now: datetime | None) -> bool | None:
    """Whether it was sent; None where it no longer is to be."""
    # Looked at again: an hour may have gone by since the list was made.
    moment = now or timezone.now()
    key = due(days, until, moment).filter(pk=pk).first()
    if key is None or key.expires_at is None:
        return None
    claimed = Reminder.objects.claim(key.public_id, key.expires_at, days, moment)
    if claimed is None:
        return None
    people = mail.owner_or_admins(key.team, key.owner_id)
    if not people:
        logger.warning("Nobody can be told that the key %s expires.", mail.one_line(str(key)))
        claimed.mark_told(moment)
        return None
    return _send(claimed, key, people, moment)


def _send(claimed: Reminder, key: ApiKey, people: list[User], now: datetime) -> bool:
    letters = mail.letters(
        "keys/email/expiry", people, _context(key, claimed.expires_at, people, now)
    )
    if not connection.in_atomic_block:
        connection.close()  # A slow mail server keeps none from the portal meanwhile.
    try:
        is_sent = mail.send(letters) > 0
    except mail.MailServerDown:
        claimed.release(now)
        raise
    if not is_sent:
        claimed.rest(now)
        return False
    with transaction.atomic():
        claimed.mark_told(now)
        _record(key, people, claimed.days)
    return True


def _context(key: ApiKey, end: datetime, people: list[User], now: datetime) -> dict[str, object]:
    return {
        "name": key.name,
        "public_id": key.public_id,
        "team": key.team.name,
        "owner": "" if key.owner in people else key.owner.get_username(),
        "expires_at": end,
        "has_expired": end <= now,
        "days_left": ceil((end - now) / DAY),
        "url": mail.page_of(key),
    }


def _record(key: ApiKey, people: list[User], days: int) -> None:
    names = ", ".join(person.get_username() for person in people)
    when = f"{days} days before its end" if days else "at its end"
    AuditEvent.objects.record(
        Action.KEY_REMINDED, key=key, target=f"{key}: {when}, to {names}", team=key.team
    )
