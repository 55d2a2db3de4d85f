"""A key that is reported as leaked ends at once, whoever reports it: possession is the proof.

Who has a key could do all with it that its programs can, so letting them end it takes nothing
from anybody. The next request is refused, on every worker, from the commit on.
"""

from django.dispatch import Signal
from django.views.decorators.debug import sensitive_variables

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.changes import lock_key
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.rotation import live_secrets
from keyportal.leaks import emails
from keyportal.leaks.case import LeakReport, StoppedKey
from keyportal.leaks.reports import ReportContents

# Apps above have keys of other kinds: sent with the `case` of each report, and each receiver ends
# those of its own and notes them there.
leak_reported = Signal()


@sensitive_variables()
def handle_report(report: ReportContents, *, address: str | None = None) -> list[StoppedKey]:
    """End each key in the report that is live, of whichever kind, and tell whom it concerns."""
    case = LeakReport(report, address)
    try:
        _disable_api_keys(case)
        leak_reported.send(sender=None, case=case)
    finally:
        # What was ended before something went wrong is no news to the next report.
        emails.send_leak_notices(case)
    return case.ended


@sensitive_variables()
def _disable_api_keys(case: LeakReport) -> None:
    """A key that an earlier report has disabled stays as it is: a report that is sent twice is
    harmless. So is the report of a secret that has ended by rotation or deletion."""
    leaked = Secret.objects.filter(digest__in=case.urls).select_related("key").order_by("key_id")
    for secret in leaked:
        if (ended := _disable_api_key(secret, case)) is not None:
            case.ended.append(ended)


def _disable_api_key(leaked: Secret, case: LeakReport) -> StoppedKey | None:
    """What was disabled, once that is committed; None where nothing was.

    A rotation enables the key again, unless a person had disabled it.
    """
    url = case.urls[bytes(leaked.digest)]
    try:
        with lock_key(leaked.key) as key:
            live = live_secrets(key)
            if leaked not in live or _is_already_reported(key, leaked):
                return None
            # By the database's clock, and not before any of its secrets was made, on whichever
            # host: one that was there when the key was reported must not pass for a newer one.
            key.reported_at = max(live[0].read_at, *(secret.created_at for secret in live))
            if key.disabled_at is None:
                key.disabled_at, key.disabled_by = key.reported_at, ApiKey.DisabledBy.LEAK
            key.save(update_fields=["reported_at", "disabled_at", "disabled_by"])
            AuditEvent.objects.record(
                Action.KEY_REPORTED,
                key=key,
                target=f"{key}: {case.in_words(url)}",
                team=key.team,
                address=case.address,
            )
    except ApiKey.DoesNotExist:
        return None  # Deleted while we looked, which is what was wanted.
    return StoppedKey(key, url, works_again=key.disabled_by == ApiKey.DisabledBy.LEAK)


def _is_already_reported(key: ApiKey, leaked: Secret) -> bool:
    """Whether a report has disabled the key for this secret already.

    A secret that a rotation has made since the report may leak as well: if that were not noted,
    the key would be enabled with it as soon as the older one has ended.
    """
    if key.reported_at is None or key.disabled_at is None:
        return False
    return leaked.created_at <= key.reported_at
