"""Responses that several views share."""

import json

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.debug import sensitive_variables

from keyportal.audit.receipts import Receipt
from keyportal.catalog.examples import examples_for
from keyportal.keys.keystring import KeyString
from keyportal.keys.models import ApiKey
from keyportal.teams.access import TeamRequest
from keyportal.teams.shortcuts import render_dialog


def key_changed(request: TeamRequest, key: ApiKey, told: str) -> HttpResponse:
    """Back to the key's page, which tells what has been done."""
    if request.htmx:
        # In this order: what is told is for the page, once the dialog is closed.
        events = {"keys-changed": None, "dialog-close": None, "told": told}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(events)})
    messages.success(request, told)
    return redirect("keys:key", request.team.slug, key.public_id)


@sensitive_variables()
def key_created(request: TeamRequest, key: ApiKey, key_string: KeyString) -> HttpResponse:
    """The one exception to redirect-after-POST: only this answer ever holds the plaintext.

    A session or a message would store it, an address would log it.
    """
    context = {
        "key": key,
        "plaintext": key_string.text,
        "examples": examples_for(request, request.team, key_string.text),
    }
    response = render_dialog(request, "keys/_created.html", context, title="API key created")
    response["HX-Trigger"] = "keys-changed"
    return response


def key_already_created(request: TeamRequest) -> HttpResponse:
    """The first answer may have been lost on its way, and with it the word to reload the list."""
    response = render_dialog(request, "keys/_already.html", {}, title="Already created", status=409)
    response["HX-Trigger"] = "keys-changed"
    return response


def key_gone(request: TeamRequest, public_id: str) -> HttpResponse:
    """Where something was to be done with a key that is not there; the list is out of date."""
    response = no_such_key(request, public_id)
    response["HX-Trigger"] = "keys-changed"
    return response


def no_such_key(request: TeamRequest, public_id: str) -> HttpResponse:
    """Deleted from this team, or never in it: the ids of other teams can't be probed."""
    context = {"receipt": Receipt.for_key(request.team, public_id)}
    return render_dialog(request, "keys/_gone.html", context, title="Key not found", status=404)
