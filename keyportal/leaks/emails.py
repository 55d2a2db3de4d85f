"""Mail about a key that has leaked, or may have leaked.

Mail is put into the outbox, so neither a request nor a worker waits for a mail server. Attack: an
anonymous reporter uses a report to send people links. So nothing that they wrote is in the mail.
"""

import logging
from urllib.parse import urljoin

from allauth.core import ratelimit
from django.conf import settings
from django.db import transaction
from django.http import HttpRequest
from django.urls import reverse

from keyportal.leaks.case import LeakReport, StoppedKey
from keyportal.leaks.reports import ANONYMOUS
from keyportal.notifications import emails
from keyportal.teams.models import Team, User

logger = logging.getLogger(__name__)
MAX_LISTED_KEYS = 50  # A report can hold over a thousand keys.
ANONYMOUS_OF_MANY = "someone who has them"


def send_leak_notices(report: LeakReport) -> None:
    """Send one mail about all stopped keys that concern them to each owner and admin of the teams.

    An error is logged and must not undo that the keys were stopped. The audit log lists every key,
    also those beyond the limit on mail.
    """
    try:
        with transaction.atomic():
            for person, keys in _keys_by_person(report).items():
                context = _context(keys, report)
                emails.send(emails.build_messages("leaks/email/leaked", [person], context))
    except Exception as error:
        logger.error("The notices of a leak could not be queued: %s", type(error).__name__)


def _keys_by_person(report: LeakReport) -> dict[User, list[StoppedKey]]:
    teams = {stopped.key.team for stopped in report.stopped}
    mailed_teams = {team.pk for team in teams if not report.is_anonymous or _may_email(team)}
    keys: dict[User, list[StoppedKey]] = {}
    recipients: dict[tuple[int, int], list[User]] = {}
    for stopped in report.stopped:
        team, owner_id = stopped.key.team, stopped.key.owner_id
        if team.pk not in mailed_teams:
            continue
        if (team.pk, owner_id) not in recipients:
            recipients[team.pk, owner_id] = emails.owner_and_admins(team, owner_id)
        for person in recipients[team.pk, owner_id]:
            keys.setdefault(person, []).append(stopped)
    return keys


def _may_email(team: Team) -> bool:
    """Count an anonymous report; False if the team has had its mails for this hour.

    Attack: a member creates keys and reports them one after another, to send mail without end. The
    limiter counts in the database, over all workers.
    """
    # The limiter needs a request, but reads nothing from it: it counts by team.
    return bool(ratelimit.consume(HttpRequest(), action="leak_mail", key=str(team.pk)))


def _context(stopped: list[StoppedKey], report: LeakReport) -> dict[str, object]:
    keys = [_key_context(each) for each in stopped]
    outcomes = sorted({each.outcome for each in stopped}, reverse=True)
    anonymous = ANONYMOUS_OF_MANY if len(keys) > 1 else ANONYMOUS
    return {
        **keys[0],
        "keys": keys[:MAX_LISTED_KEYS],
        "count": len(keys),
        "unlisted_count": len(keys[MAX_LISTED_KEYS:]),
        "reporter": anonymous if report.is_anonymous else report.contents.reporter,
        "outcome": " or ".join(outcomes),
        "has_disabled": "disabled" in outcomes,
        "has_deleted": "deleted" in outcomes,
        "urls": sorted({str(key["url"]) for key in keys}),
        "is_limited": report.is_anonymous,
    }


def _key_context(stopped: StoppedKey) -> dict[str, object]:
    return {
        "kind": stopped.kind,
        "name": stopped.key.name,
        "public_id": stopped.key.public_id,
        "owner": stopped.key.owner.get_username(),
        "team": stopped.key.team.name,
        "outcome": stopped.outcome,
        "is_enabled_by_rotation": stopped.is_enabled_by_rotation,
        "found_at": stopped.found_at,
        "url": _page_url(stopped.url_name, stopped.key.team),
    }


def send_alarm(team: Team, owner_id: int, context: dict[str, object]) -> None:
    """Send an alarm to the owner, also of a deleted key, or to the team's admins if the owner left.

    `context` has the texts `subject`, `explanation` and `advice`. The mail is written with the
    connection that `team` was read with.
    """
    people = [p for p in emails.owner_or_admins(team, owner_id) if p.wants_alarms]
    context = {"team": team.name, "url": _page_url("keys:list", team), **context}
    emails.send(emails.build_messages("leaks/email/alarm", people, context), using=team._state.db)


def _page_url(name: str, team: Team) -> str:
    """Empty if `PUBLIC_URL` is not set."""
    page = reverse(name, args=[team.slug])
    return urljoin(settings.PUBLIC_URL, page) if settings.PUBLIC_URL else ""
