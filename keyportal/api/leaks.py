"""A leaked management key is deleted at once, whoever says that it leaked; see `keys.leaks`.

Nobody can disable one, and none is rotated: a program gets a new one, and the API keys that it
looks after stay.
"""

from django.conf import settings
from django.db import transaction
from django.dispatch import receiver
from django.urls import reverse
from django.views.decorators.debug import sensitive_variables

from keyportal.activity.models import Action, AuditEvent
from keyportal.api.models import ManagementKey
from keyportal.keys import mail
from keyportal.keys.leaks import Ended, in_words, leak_reported
from keyportal.keys.notices import undoing_nothing
from keyportal.keys.reports import Report
from keyportal.teams.models import Team
from keyportal.teams.post import send_later


@receiver(leak_reported)
@sensitive_variables()
def end_leaked(report: Report, address: str | None, **_: object) -> list[Ended]:
    """Delete each management key in the report, and tell. One that is gone is left at that."""
    urls = {found.digest: found.url for found in report.found}
    leaked = ManagementKey.objects.filter(digest__in=urls).select_related("team", "owner")
    ended = []
    for key in leaked.order_by("pk"):
        url = urls[bytes(key.digest)]
        if _end(key, in_words(report.reporter, url), address):
            ended.append(Ended(key, is_deleted=True))
            _tell(key, report.reporter, url)
    return ended


def _end(key: ManagementKey, told: str, address: str | None) -> bool:
    """Whether it was there to be ended; if not, its row in the audit is taken back."""
    try:
        with transaction.atomic():
            AuditEvent.objects.record(
                Action.KEY_REPORTED,
                target=f"management key {key}: {told}",
                team=key.team,
                address=address,
            )
            key.revoke(actor=None, address=address)
    except ManagementKey.DoesNotExist:
        return False
    return True


@undoing_nothing
def _tell(key: ManagementKey, reporter: str, url: str) -> None:
    """To its owner and the team's admins, behind the answer."""
    context = {
        "name": key.name,
        "public_id": key.public_id,
        "team": key.team.name,
        "reporter": reporter,
        "found_at": url,
        "url": _page_of(key.team),
    }
    people = mail.owner_and_admins(key.team, key.owner_id)
    send_later(mail.letters("api/email/leaked", people, context))


def _page_of(team: Team) -> str:
    """Empty where nobody has said which address of ours people use."""
    path = reverse("management_keys:list", args=[team.slug])
    return f"{settings.PUBLIC_URL}{path}" if settings.PUBLIC_URL else ""
