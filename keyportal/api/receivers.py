"""A leaked management key is deleted at once, whoever says that it leaked; see `keys.leaks`.

Nobody can disable one, and none is rotated: a program gets a new one, and the API keys that it
looks after stay.
"""

from django.db import transaction
from django.dispatch import receiver
from django.views.decorators.debug import sensitive_variables

from keyportal.api.models import ManagementKey
from keyportal.audit.models import Action, AuditEvent
from keyportal.leaks.case import MANAGEMENT_KEY, Ended, LeakReport
from keyportal.leaks.handling import leak_reported


@receiver(leak_reported)
@sensitive_variables()
def end_leaked(case: LeakReport, **_: object) -> None:
    """Delete each management key in the report. One that is gone is left at that."""
    leaked = ManagementKey.objects.filter(digest__in=case.urls).select_related("team", "owner")
    for key in leaked.order_by("pk"):
        url = case.urls[bytes(key.digest)]
        try:
            _end(key, case, url)
        except ManagementKey.DoesNotExist:
            continue
        case.ended.append(Ended(key, url, MANAGEMENT_KEY, "management_keys:list"))


def _end(key: ManagementKey, case: LeakReport, url: str) -> None:
    """Its row in the audit is taken back if the key is gone: raises `DoesNotExist`."""
    with transaction.atomic():
        AuditEvent.objects.record(
            Action.KEY_REPORTED,
            target=f"management key {key}: {case.in_words(url)}",
            team=key.team,
            address=case.address,
        )
        key.revoke(actor=None, address=case.address)
