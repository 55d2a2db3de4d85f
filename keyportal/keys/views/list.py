"""The list of the team's API keys."""

from datetime import datetime
from typing import NamedTuple

from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_safe

from keyportal.database.clock import database_now
from keyportal.keys import keystring
from keyportal.keys.forms.list import ListForm
from keyportal.keys.last_use import last_used_times
from keyportal.keys.models import ApiKey
from keyportal.keys.status import Badge, badges
from keyportal.teams.access import TeamRequest, may_change, may_end, team_view
from keyportal.teams.models import Role
from keyportal.teams.shortcuts import render_htmx
from keyportal.usage.reports.sparklines import Sparkline, sparklines

ROWS = 25


class Row(NamedTuple):
    key: ApiKey
    badges: list[Badge]
    is_changeable: bool
    is_endable: bool
    sparkline: Sparkline | None
    last_used_at: datetime | None


@require_safe
@team_view(Role.VIEWER)
def key_list(request: TeamRequest) -> HttpResponse:
    if keystring.redact(text := request.GET.get("q", "")) != text:
        return _search_by_public_id(request, text)
    form = ListForm(request.GET)
    keys = ApiKey.objects.for_team(request.team)
    matching = keys.matching(form.value("q"))
    pages = Paginator(matching.ids_sorted_by(form.sorting), ROWS)
    pages.count = matching.count()  # Counting the sorted query would be slower.
    page = pages.get_page(request.GET.get("page"))
    keys_by_pk = keys.for_display().in_bulk(page.object_list)
    public_ids = [key.public_id for key in keys_by_pk.values()]
    lines = sparklines(request.team, public_ids, database_now())
    times = last_used_times(keys_by_pk.values())
    rows = [
        Row(
            key,
            badges(key),
            may_change(request.membership, key),
            may_end(request.membership, key),
            lines.get(key.public_id),
            times.get(key.public_id),
        )
        for key in (keys_by_pk[pk] for pk in page if pk in keys_by_pk)
    ]
    context = {"form": form, "page": page, "rows": rows, "key_count": count_keys(request)}
    return render_htmx(request, "keys/list.html", "keys/_table.html", context)


def _search_by_public_id(request: TeamRequest, text: str) -> HttpResponse:
    """Redirect a search for a pasted key string, so that it does not stay in the browser's history.

    HTMX follows the redirect and puts the new URL into the history.
    """
    query = request.GET.copy()
    query["q"] = keystring.find_public_id(text)
    return redirect(f"{request.path}?{query.urlencode()}")


def count_keys(request: TeamRequest) -> int:
    return ApiKey.objects.for_team(request.team).count()
