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


def key_changed(request: TeamRequest, key: ApiKey, message: str) -> HttpResponse:
    """Go back to the key's page and show the message there."""
    if request.htmx:
        # In this order: the page announces the message after the dialog has closed.
        events = {"keys-changed": None, "dialog-close": None, "show-message": message}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(events)})
    messages.success(request, message)
    return redirect("keys:key", request.team.slug, key.public_id)


@sensitive_variables()
def key_created(request: TeamRequest, key: ApiKey, key_string: KeyString) -> HttpResponse:
    """The only response with the key string, so it does not redirect after POST.

    A session or message would store the key string, and a URL would put it into logs.
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
    """Reload the list too: the first response may have been lost."""
    response = render_dialog(request, "keys/_already.html", {}, title="Already created", status=409)
    response["HX-Trigger"] = "keys-changed"
    return response


def key_gone(request: TeamRequest, public_id: str) -> HttpResponse:
    """The response to an action on a deleted key. The list is out of date, so it is reloaded."""
    response = no_such_key(request, public_id)
    response["HX-Trigger"] = "keys-changed"
    return response


def no_such_key(request: TeamRequest, public_id: str) -> HttpResponse:
    """The same for a key that never existed and a key of another team.

    Attack: an outsider tries public ids to find out which exist.
    """
    context = {"receipt": Receipt.for_key(request.team, public_id)}
    return render_dialog(request, "keys/_gone.html", context, title="Key not found", status=404)
