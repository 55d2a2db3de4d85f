"""The page of a key: details, permissions, limits, usage and history; and the receipt."""

from typing import NamedTuple

from django.core.paginator import Paginator
from django.http import Http404, HttpResponse
from django.views.decorators.http import require_safe

from keyportal.audit.models import AuditEvent
from keyportal.audit.receipts import Receipt
from keyportal.keys.last_use import last_use
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import live_secrets
from keyportal.keys.rules.policy import violations
from keyportal.keys.status import badges
from keyportal.keys.views.decorators import may_manage
from keyportal.keys.views.responses import no_such_key
from keyportal.teams.access import TeamRequest, may_change, may_end, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_htmx
from keyportal.teams.sign_in.sessions import polled
from keyportal.usage.limit_status import LimitUse, limit_uses
from keyportal.usage.models import key_subject
from keyportal.usage.reports.key_usage import key_usage

ROWS = 20  # Of its history.


class Entry(NamedTuple):
    """A row of the history. `text` is the target of the event without the name of the key."""

    event: AuditEvent
    text: str


@require_safe
@team_view(Role.VIEWER)
def key_page(request: TeamRequest, public_id: str) -> HttpResponse:
    keys = ApiKey.objects.for_team(request.team).for_display().select_related("team")
    key = keys.filter(public_id=public_id).first()
    if key is None:
        return no_such_key(request, public_id)
    events = AuditEvent.objects.for_team(request.team).for_key(public_id)
    page = Paginator(events, ROWS).get_page(request.GET.get("page"))
    context = {
        "key": key,
        "badges": badges(key),
        "is_changeable": may_change(request.membership, key),
        "is_endable": may_end(request.membership, key),
        "is_manageable": may_manage(request.membership, key),
        "secrets": live_secrets(key) or [key.current_secret],
        "last_use": last_use(key),
        "limits": _limits(key),
        "violations": violations(request.team.policy, key),
        "usage": key_usage(request.team, public_id, key.name, key.read_at),
        "page": page,
        "history": [Entry(event, _history_text(event)) for event in page],
    }
    return render_htmx(request, "keys/key.html", "keys/_key.html", context)


def _history_text(event: AuditEvent) -> str:
    """`nightly (AbCd1234): Name: test → nightly` without the key."""
    before, key, after = event.target.rpartition(f"({event.public_id})")
    return after.removeprefix(":").strip() if key else before or event.target


def _limits(key: ApiKey) -> list[LimitUse]:
    """The limits that are set, with their use."""
    uses = limit_uses(key_subject(key.public_id), key.limits)
    return [use for use in uses if use.limit is not None]


@polled
@require_safe
@team_view(Role.VIEWER)
def key_receipt(request: TeamRequest, public_id: str) -> HttpResponse:
    receipt = Receipt.for_key(request.team, public_id)
    if receipt is None:
        raise Http404
    return render_htmx(request, "keys/receipt.html", "keys/_receipt.html", {"receipt": receipt})
