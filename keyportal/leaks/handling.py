"""Handling of leak reports: a reported key stops working at once. Anyone can report one.

A person who has a key could use it anyway. That they can stop it gives them no new power over its
owner.
Every worker refuses requests with the key from the commit on.
"""

from django.db import transaction
from django.dispatch import Signal
from django.views.decorators.debug import sensitive_variables

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey, Secret, lock_key
from keyportal.keys.rotation import live_secrets
from keyportal.leaks import emails
from keyportal.leaks.case import LeakReport, StoppedKey
from keyportal.leaks.reports import ReportContents
from keyportal.teams.access import require_end

# Sent with each `report`, for keys that apps above this one own. A receiver stops those of its kind
# and adds them to `report.stopped`.
leak_reported = Signal()


@sensitive_variables()
def handle_report(contents: ReportContents, *, address: str | None = None) -> list[StoppedKey]:
    """Stop each live key in the report, of any kind, and send notices. Returns the stopped keys."""
    report = LeakReport(contents, address)
    if len(report.urls) == 1:
        # In one transaction, so that no crash can come between the key's end and its notice.
        with transaction.atomic():
            _stop_keys(report)
            emails.send_leak_notices(report)
        return report.stopped
    # Many keys are stopped one by one: one transaction would lock all their teams, and delay the
    # end of the first key until the last one is done.
    try:
        _stop_keys(report)
    finally:
        # Also after an error: a second report would not mention the keys that are stopped already.
        emails.send_leak_notices(report)
    return report.stopped


@sensitive_variables()
def _stop_keys(report: LeakReport) -> None:
    _disable_api_keys(report)
    leak_reported.send(sender=None, report=report)


@sensitive_variables()
def _disable_api_keys(report: LeakReport) -> None:
    """Disable the reported API keys.

    A key that an earlier report has disabled doesn't change, so a report can safely be sent twice.
    A report of a secret that has ended by rotation or deletion does nothing.
    """
    leaked = Secret.objects.filter(digest__in=report.urls).select_related("key").order_by("key_id")
    for secret in leaked:
        if (stopped := _disable_api_key(secret, report)) is not None:
            report.stopped.append(stopped)


def _disable_api_key(leaked: Secret, report: LeakReport) -> StoppedKey | None:
    """Disable the key of this secret; None if there was nothing to do.

    A rotation enables the key again, unless a person had disabled it.
    """
    url = report.urls[bytes(leaked.digest)]
    try:
        with lock_key(leaked.key, actor=None, right=require_end) as key:
            live = live_secrets(key)
            if leaked not in live or _is_already_reported(key, leaked):
                return None
            # By the database's clock, and not before the creation of any of its secrets by another
            # host's clock: a secret that existed at the report must not count as a newer one.
            key.reported_at = max(live[0].read_at, *(secret.created_at for secret in live))
            if key.disabled_at is None:
                key.disabled_at, key.disabled_by = key.reported_at, ApiKey.DisabledBy.LEAK
            key.save(update_fields=["reported_at", "disabled_at", "disabled_by"])
            AuditEvent.objects.record(
                Action.KEY_REPORTED,
                key=key,
                target=f"{key}: {report.audit_text(url)}",
                team=key.team,
                address=report.address,
            )
    except ApiKey.DoesNotExist:
        return None  # It was deleted at the same time.
    return StoppedKey(key, url, is_enabled_by_rotation=key.disabled_by == ApiKey.DisabledBy.LEAK)


def _is_already_reported(key: ApiKey, leaked: Secret) -> bool:
    """Whether a report has already disabled the key for this secret.

    A secret that a rotation has made since then can leak as well. If that were not recorded, the
    key would be enabled with the leaked secret as soon as the older one has ended.
    """
    if key.reported_at is None or key.disabled_at is None:
        return False
    return leaked.created_at <= key.reported_at
