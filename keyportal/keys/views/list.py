"""The team's API keys: see, make and delete them, and read what they are."""

from datetime import datetime
from typing import NamedTuple

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from keyportal.keys import keystring
from keyportal.keys.forms.list import ListForm
from keyportal.keys.last_use import last_used_times
from keyportal.keys.models import ApiKey
from keyportal.keys.status import Badge, badges
from keyportal.teams.access import TeamRequest, may_change, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_htmx
from keyportal.usage.reports.sparklines import Sparkline, sparklines

ROWS = 25


class Row(NamedTuple):
    key: ApiKey
    badges: list[Badge]
    is_changeable: bool
    sparkline: Sparkline | None
    used_at: datetime | None


@require_safe
@team_view(Role.VIEWER)
def key_list(request: TeamRequest) -> HttpResponse:
    if keystring.redact(typed := request.GET.get("q", "")) != typed:
        return _search_by_public_id(request, typed)
    form = ListForm(request.GET)
    keys = ApiKey.objects.for_team(request.team)
    found = keys.matching(form.value("q"))
    pages = Paginator(found.ids_sorted_by(form.sorting), ROWS)
    pages.count = found.count()  # The sorted ids would be counted with all they are sorted by.
    page = pages.get_page(request.GET.get("page"))
    shown = keys.for_display().in_bulk(page.object_list)
    lines = sparklines(request.team, [key.public_id for key in shown.values()])
    used_at = last_used_times(shown.values())
    rows = [
        Row(
            key,
            badges(key),
            may_change(request.membership, key),
            lines.get(key.public_id),
            used_at.get(key.public_id),
        )
        for key in (shown[pk] for pk in page if pk in shown)
    ]
    context = {"form": form, "page": page, "rows": rows, "used": count_keys(request)}
    return render_htmx(request, "keys/list.html", "keys/_table.html", context)


def _search_by_public_id(request: TeamRequest, typed: str) -> HttpResponse:
    """A key that was pasted into the search leaves the address, and so the browser's history.

    HTMX follows a redirect as the browser does, and shows the address that it led to.
    """
    query = request.GET.copy()
    query["q"] = keystring.find_public_id(typed)
    return redirect(f"{request.path}?{query.urlencode()}")


def count_keys(request: TeamRequest) -> int:
    return ApiKey.objects.for_team(request.team).count()
