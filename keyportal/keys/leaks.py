"""A leaked key ends at once, whoever says that it leaked: possession is the proof.

Who holds a key could do all with it that its programs can, so letting them end it takes nothing
from anybody. The next request is refused, on every worker, from the commit on.
"""

from django.dispatch import Signal
from django.views.decorators.debug import sensitive_variables

from keyportal.activity.models import Action, Alarm, AuditEvent
from keyportal.keys import notices
from keyportal.keys.cases import UNCOUNTED, Case, Ended
from keyportal.keys.changes import locked
from keyportal.keys.letter_counts import Allowed, answerable
from keyportal.keys.models import ApiKey, Remnant, Secret
from keyportal.keys.reports import Report
from keyportal.keys.rotation import live_secrets
from keyportal.teams.policy import DELETE

# Apps above have keys of other kinds: sent with the `case` of each report, and each receiver ends
# those of its own and notes them there.
leak_reported = Signal()


@sensitive_variables()
def report(report: Report, *, address: str | None = None) -> list[Ended]:
    """End each key in the report that is live, of whichever kind, and tell whom it concerns."""
    case = Case(report, address)
    try:
        _end_api_keys(case)
        leak_reported.send(sender=None, case=case)
    finally:
        # What was ended before something went wrong is no news to the next report.
        notices.reported(case)
    return case.ended


@sensitive_variables()
def _end_api_keys(case: Case) -> None:
    """Each is disabled or deleted, as its team wants it.

    One that was reported before, and is disabled since, is left as it is: a report that is sent
    twice is harmless. So is one of a secret that has ended already, by rotation or deletion.
    """
    leaked = Secret.objects.filter(digest__in=case.urls).select_related("key").order_by("key_id")
    for one in leaked:
        if (ended := _end(one, case)) is not None:
            case.ended.append(ended)


def _end(leaked: Secret, case: Case) -> Ended | None:
    """What was ended, once that is committed; None where nothing was."""
    url = case.urls[bytes(leaked.digest)]
    try:
        with locked(leaked.key) as key:
            live = live_secrets(key)
            if leaked not in live or _is_known(key, leaked):
                return None
            is_deleted = key.team.policy.on_leak == DELETE
            allowed = _may_write(key, case, is_deleted=is_deleted)
            _record(key, case, url)
            if is_deleted:
                Remnant.objects.keep(key, leaked, case.report.reporter)
                key.revoke(actor=None, address=case.address, reporter=case.report.reporter)
            else:
                _disable(key, live)
    except ApiKey.DoesNotExist:
        return None  # Deleted while we looked, which is what was wanted.
    return Ended(
        key, is_deleted, url, allowed, works_again=key.disabled_by == ApiKey.DisabledBy.LEAK
    )


def _may_write(key: ApiKey, case: Case, *, is_deleted: bool) -> Allowed | None:
    """Whoever may enable the key can report it again and again: that ends it each time, but mails
    nobody more than once an hour, or they could flood everybody. A key is deleted only once, but
    new ones are free: so there is a bound for each person too.
    """
    is_first = Alarm.objects.raise_once(key.public_id, Action.KEY_REPORTED)
    if not case.is_by_somebody:
        return UNCOUNTED
    return case.allow(key.team, answerable(key)) if is_first or is_deleted else None


def _is_known(key: ApiKey, leaked: Secret) -> bool:
    """A secret that a rotation has made since the report may leak as well: if nobody noted that,
    the key would be enabled with it as soon as the older one has ended."""
    if key.reported_at is None or key.disabled_at is None:
        return False
    return leaked.created_at <= key.reported_at


def _disable(key: ApiKey, live: list[Secret]) -> None:
    """A rotation enables the key again, unless a person had disabled it.

    By the database's clock, and not before any of its secrets was made, on whichever host: one
    that was there when the key was reported must not pass for a newer one.
    """
    key.reported_at = max(live[0].read_at, *(one.created_at for one in live))
    if key.disabled_at is None:
        key.disabled_at, key.disabled_by = key.reported_at, ApiKey.DisabledBy.LEAK
    key.save(update_fields=["reported_at", "disabled_at", "disabled_by"])


def _record(key: ApiKey, case: Case, url: str) -> None:
    AuditEvent.objects.record(
        Action.KEY_REPORTED,
        key=key,
        target=f"{key}: {case.in_words(url)}",
        team=key.team,
        address=case.address,
    )
