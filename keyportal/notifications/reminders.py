"""Reminders of expiry: mail to a key's owner 14 and 3 days before the key expires, and after it.

A key is in one stage at a time, and gets one reminder in each stage. A stage counts only if the
expiry was set before the stage began: a key that is created for one week gets no reminder at once.
If the job runs late, only the reminder of the current stage is sent, and none a week after the
expiry.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from math import ceil

from django.db import transaction
from django.db.models import Exists, F, OuterRef, QuerySet
from django.db.models.functions import Coalesce

from keyportal.audit.models import Action, AuditEvent
from keyportal.database.clock import database_now
from keyportal.keys.models import ApiKey
from keyportal.notifications import emails
from keyportal.notifications.models import Reminder
from keyportal.teams.models import User

DAY = timedelta(days=1)
# Days before the expiry at which a stage begins and ends; the most urgent first.
STAGES = ((0, -7), (3, 0), (14, 3))

logger = logging.getLogger(__name__)


def keys_due(days: int, until: int, now: datetime) -> QuerySet[ApiKey]:
    """Keys in this stage that have had no reminder in it.

    A key that is disabled, or whose team is inactive, gets no reminder until that changes.
    """
    sent = Reminder.objects.filter(
        public_id=OuterRef("public_id"), expires_at=OuterRef("expires_at"), days=days
    )
    return (
        ApiKey.objects.filter(expires_at__gt=now + until * DAY, expires_at__lte=now + days * DAY)
        # A program's key is to end within hours.
        .filter(disabled_at=None, team__is_active=True, program_sign_in=None)
        .alias(since=Coalesce("expiry_set_at", "created_at"))
        .filter(since__lt=F("expires_at") - days * DAY)
        .exclude(Exists(sent))
        .select_related("team", "owner")
        .order_by("expires_at", "pk")
    )


def send_reminders(
    now: datetime | None = None, *, should_continue: Callable[[], bool] = lambda: True
) -> int:
    """Put the reminders that are due into the outbox. Returns the number of keys.

    Several processes may call this at the same time. `now` replaces the clock in tests.
    """
    count = 0
    for days, until in STAGES:
        for pk in [*keys_due(days, until, now or database_now()).values_list("pk", flat=True)]:
            if not should_continue():
                return count
            count += _send_reminder(pk, days, until, now or database_now())
    return count


def _send_reminder(pk: int, days: int, until: int, now: datetime) -> bool:
    # Read the key again: the list may be minutes old.
    key = keys_due(days, until, now).filter(pk=pk).first()
    if key is None or key.expires_at is None:
        return False
    people = [
        person
        for person in emails.owner_or_admins(key.team, key.owner_id)
        if person.wants_reminders
    ]
    context = _context(key, key.expires_at, people, now)
    messages = emails.build_messages("notifications/email/expiry", people, context)
    with transaction.atomic():
        # If two processes do this at once, the second waits for the first and then gets its row.
        _, is_new = Reminder.objects.get_or_create(
            public_id=key.public_id, expires_at=key.expires_at, days=days
        )
        if not is_new:
            return False
        if people:
            _record(key, people, days)
            emails.send(messages)
    if not people:
        logger.warning(
            "There is no recipient for the reminder about the key %s.", emails.one_line(str(key))
        )
    return bool(people)


def _context(
    key: ApiKey, expires_at: datetime, people: list[User], now: datetime
) -> dict[str, object]:
    return {
        "name": key.name,
        "public_id": key.public_id,
        "team": key.team.name,
        "owner": "" if key.owner in people else key.owner.get_username(),
        "expires_at": expires_at,
        "has_expired": expires_at <= now,
        "days_left": ceil((expires_at - now) / DAY),
        "url": emails.key_url(key),
    }


def _record(key: ApiKey, people: list[User], days: int) -> None:
    names = ", ".join(person.get_username() for person in people)
    time = f"{days} days before its expiry" if days else "at its expiry"
    AuditEvent.objects.record(
        Action.KEY_REMINDED, key=key, target=f"{key}: {time}, to {names}", team=key.team
    )
