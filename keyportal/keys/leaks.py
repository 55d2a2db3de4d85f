"""A leaked key ends at once, whoever says that it leaked: possession is the proof.

Who holds a key could do all with it that its programs can, so letting them end it takes nothing
from anybody. The next request is refused, on every worker, from the commit on.
"""

from functools import partial
from typing import NamedTuple, Protocol, cast

from django.dispatch import Signal
from django.http import HttpRequest
from django.views.decorators.debug import sensitive_variables

from keyportal.activity.models import Action, Alarm, AuditEvent
from keyportal.keys import notices
from keyportal.keys.changes import locked
from keyportal.keys.forms import new_nonce
from keyportal.keys.models import ApiKey, Secret
from keyportal.keys.reports import SOMEBODY, Report
from keyportal.keys.rotation import live_secrets
from keyportal.teams.access import may_change
from keyportal.teams.models import Membership, Team
from keyportal.teams.policy import DELETE

# Apps above have keys of other kinds: sent with `report` and `address` for each report, and each
# receiver ends those of its own, tells whom they concern and returns a list of `Ended`.
leak_reported = Signal()


class Leaked(Protocol):
    """A key of any kind, of which this app knows no more than whose it is."""

    public_id: str

    @property
    def team(self) -> Team: ...


class Ended(NamedTuple):
    """A key that was ended, as it was; `is_deleted` or else it is disabled."""

    key: Leaked
    is_deleted: bool


@sensitive_variables()
def report(report: Report, *, address: str | None = None) -> list[Ended]:
    """End each key in the report that is live, of whichever kind, and tell whom it concerns."""
    ended = _end_api_keys(report, address)
    for _, others in leak_reported.send(sender=None, report=report, address=address):
        ended += cast("list[Ended]", others)  # Stubs think that receivers answer with text.
    return ended


@sensitive_variables()
def _end_api_keys(report: Report, address: str | None) -> list[Ended]:
    """Each is disabled or deleted, as its team wants it.

    One that was reported before, and is disabled since, is left as it is: a report that is sent
    twice is harmless. So is one of a secret that has ended already, by rotation or deletion.
    """
    urls = {found.digest: found.url for found in report.found}
    leaked = Secret.objects.filter(digest__in=urls).select_related("key").order_by("key_id")
    ended = []
    for one in leaked:
        url = urls[bytes(one.digest)]
        if (end := _end(one, report.reporter, url, address)) is not None:
            key, is_deleted, is_news = end
            ended.append(Ended(key, is_deleted))
            if is_news:
                notices.reported(key, report.reporter, url, is_deleted=is_deleted)
    return ended


def _end(
    leaked: Secret, reporter: str, url: str, address: str | None
) -> tuple[ApiKey, bool, bool] | None:
    """The key as it was, whether it is deleted, and whether people are to be told.

    Whoever may enable the key can report it again and again: that ends it each time, but mails
    nobody more than once an hour, or they could flood everybody. A key is deleted only once, and
    neither GitHub nor an operator floods anybody.
    """
    try:
        with locked(leaked.key) as key:
            live = live_secrets(key)
            if leaked not in live or _is_known(key, leaked):
                return None
            is_deleted = key.team.policy.on_leak == DELETE
            is_first = Alarm.objects.raise_once(key.public_id, Action.KEY_REPORTED)
            is_news = is_deleted or is_first or reporter != SOMEBODY
            _record(key, reporter, url, address)
            if is_deleted:
                key.revoke(actor=None, address=address)
            else:
                _disable(key, live)
    except ApiKey.DoesNotExist:
        return None  # Deleted while we looked, which is what was wanted.
    return key, is_deleted, is_news


def _is_known(key: ApiKey, leaked: Secret) -> bool:
    """A secret that a rotation has made since the report may leak as well: if nobody noted that,
    the key would be enabled with it as soon as the older one has ended."""
    if key.reported_at is None or key.disabled_at is None:
        return False
    return leaked.created_at <= key.reported_at


def _disable(key: ApiKey, live: list[Secret]) -> None:
    """The two times are one where the report disabled it: then a rotation enables it again.

    By the database's clock, and not before any of its secrets was made, on whichever host: one
    that was there when the key was reported must not pass for a newer one.
    """
    is_by_person = key.disabled_at is not None and not key.is_disabled_by_report
    key.reported_at = max(live[0].read_at, *(one.created_at for one in live))
    if not is_by_person:
        key.disabled_at = key.reported_at
    key.save(update_fields=["reported_at", "disabled_at"])


def _record(key: ApiKey, reporter: str, url: str, address: str | None) -> None:
    AuditEvent.objects.record(
        Action.KEY_REPORTED,
        key=key,
        target=f"{key}: {in_words(reporter, url)}",
        team=key.team,
        address=address,
    )


def in_words(reporter: str, url: str) -> str:
    """As the audit has it: who reported a key, and where it was found if that is known."""
    return f"reported by {reporter}" + (f", found at {url}" if url else "")


def banner(request: HttpRequest) -> dict[str, object]:
    """For every page of a team; asked of the database by those alone that show it."""
    membership: Membership | None = getattr(request, "membership", None)
    if membership is None:
        return {}
    return {"leaked_keys": partial(awaiting_rotation, membership), "new_nonce": new_nonce}


def awaiting_rotation(membership: Membership) -> list[ApiKey]:
    """Reported keys that this member may do something about, the latest report first."""
    reported = ApiKey.objects.of(membership.team).filter(reported_at__isnull=False)
    keys = reported.for_display().order_by("-reported_at", "pk")
    return [key for key in keys if may_change(membership, key)]
