"""The response to a change of members or invitations, and which of them are confirmed first."""

import json

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect

from keyportal.teams.access import TeamRequest
from keyportal.teams.models import Role

CHANGED = "members-changed"


def is_powerful(role: str) -> bool:
    """Whether to ask who it is before somebody gets or loses the role.

    Attack: someone at an open session makes another account an admin, and so keeps the team.
    """
    return role in {Role.ADMIN, Role.OWNER}


def members_changed(request: TeamRequest, message: str) -> HttpResponse:
    """Go back to the members and show the message there."""
    if request.htmx:
        # In this order: the page announces the message after the dialog has closed.
        events = {CHANGED: None, "dialog-close": None, "show-message": message}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(events)})
    messages.success(request, message)
    return redirect("people:members", request.team.slug)
