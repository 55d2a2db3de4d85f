"""Delete a key."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils.html import format_html
from django.views.decorators.http import require_http_methods

from keyportal.keys.last_use import last_use
from keyportal.keys.models import ApiKey
from keyportal.keys.views.decorators import key_end_view
from keyportal.teams.access import TeamRequest
from keyportal.teams.shortcuts import render_dialog
from keyportal.usage.impact import impact


@require_http_methods(["GET", "POST"])
@key_end_view
def key_delete(request: TeamRequest, key: ApiKey) -> HttpResponse:
    if request.method != "POST":
        stops = impact(request.team, [key.public_id])
        context = {"key": key, "last_use": last_use(key), "impact": stops}
        return render_dialog(request, "keys/_delete.html", context, title="Delete API key")
    key.revoke(actor=request.user, address=request.META["REMOTE_ADDR"])
    return _deleted(request, key)


def _deleted(request: TeamRequest, key: ApiKey) -> HttpResponse:
    if request.htmx:
        return HttpResponse(status=204, headers={"HX-Trigger": "keys-changed, dialog-close"})
    receipt = reverse("keys:receipt", args=[request.team.slug, key.public_id])
    told = 'The key {} is deleted. <a href="{}">See the receipt</a>'
    messages.success(request, format_html(told, key.name, receipt))
    return redirect("keys:list", request.team.slug)
