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

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import Coalesce
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.notifications import emails
from keyportal.notifications.models import Reminder
from keyportal.teams.models import User

DAY = timedelta(days=1)
# Days before the end, and the days at which the next stage begins; what is urgent first.
STAGES = ((0, -7), (3, 0), (14, 3))

logger = logging.getLogger(__name__)


def keys_due(days: int, until: int, now: datetime) -> QuerySet[ApiKey]:
    """Keys in this stage that are to be told of it.

    One that is disabled, or whose team is off, has no use that ends; enabled again, it is told.
    """
    given = Reminder.objects.filter(
        public_id=OuterRef("public_id"), expires_at=OuterRef("expires_at"), days=days
    )
    return (
        ApiKey.objects.filter(expires_at__gt=now + until * DAY, expires_at__lte=now + days * DAY)
        .filter(disabled_at=None, team__is_active=True)
        .alias(since=Coalesce("expiry_set_at", "created_at"))
        .filter(since__lt=F("expires_at") - days * DAY)
        .exclude(Exists(given))
        .select_related("team", "owner")
        .order_by("expires_at", "pk")
    )


def send_reminders(
    now: datetime | None = None, *, may_go_on: Callable[[], bool] = lambda: True
) -> int:
    """Put the reminders that are due into the outbox, and return for how many keys.

    Several processes may do this at once. `now` stops the clock.
    """
    count = 0
    for days, until in STAGES:
        for pk in [*keys_due(days, until, now or timezone.now()).values_list("pk", flat=True)]:
            if not may_go_on():
                return count
            count += _send_reminder(pk, days, until, now or timezone.now())
    return count


def _send_reminder(pk: int, days: int, until: int, now: datetime) -> bool:
    # Read again: the list may be some minutes old.
    key = keys_due(days, until, now).filter(pk=pk).first()
    if key is None or key.expires_at is None:
        return False
    people = emails.owner_or_admins(key.team, key.owner_id)
    context = _context(key, key.expires_at, people, now)
    messages = emails.build_messages("notifications/email/expiry", people, context)
    with transaction.atomic():
        # Of two processes, the second waits here for the first, and then finds its row.
        _, is_new = Reminder.objects.get_or_create(
            public_id=key.public_id, expires_at=key.expires_at, days=days
        )
        if not is_new:
            return False
        if people:
            _record(key, people, days)
            emails.send(messages)
    if not people:
        logger.warning("Nobody can be told that the key %s expires.", emails.one_line(str(key)))
    return bool(people)


def _context(key: ApiKey, end: datetime, people: list[User], now: datetime) -> dict[str, object]:
    return {
        "name": key.name,
        "public_id": key.public_id,
        "team": key.team.name,
        "owner": "" if key.owner in people else key.owner.get_username(),
        "expires_at": end,
        "has_expired": end <= now,
        "days_left": ceil((end - now) / DAY),
        "url": emails.key_url(key),
    }


def _record(key: ApiKey, people: list[User], days: int) -> None:
    names = ", ".join(person.get_username() for person in people)
    when = f"{days} days before its end" if days else "at its end"
    AuditEvent.objects.record(
        Action.KEY_REMINDED, key=key, target=f"{key}: {when}, to {names}", team=key.team
    )
