"""Of a key that a report of a leak has deleted: making one like it, or putting the notice away."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import wraps

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyportal.keys.forms import NonceForm
from keyportal.keys.models import ApiKey, Remnant, SpentNonce
from keyportal.keys.refusals import AlreadyCreated, KeyRefused
from keyportal.keys.replacing import dismiss, like, obstacles, replace
from keyportal.keys.views import already_created, created, gone
from keyportal.teams.access import TeamRequest, require_change, team_view
from keyportal.teams.models import Role
from keyportal.teams.pages import render_part


def _remnant_view(
    view: Callable[[TeamRequest, Remnant], HttpResponse],
) -> Callable[..., HttpResponse]:
    """For those who could have changed the key. What is left of it may be gone, too, by now."""

    @team_view(Role.MEMBER)
    @wraps(view)
    def opened(request: TeamRequest, public_id: str) -> HttpResponse:
        found = Remnant.objects.of(request.team).filter(public_id=public_id)
        try:
            remnant = found.select_related("team", "owner").latest("pk")
            require_change(request.membership, remnant)
            return view(request, remnant)
        except Remnant.DoesNotExist:
            return _settled(request, public_id)

    return opened


@sensitive_post_parameters("nonce")
@require_http_methods(["GET", "POST"])
@_remnant_view
@sensitive_variables("key_string")
def key_replace(request: TeamRequest, remnant: Remnant) -> HttpResponse:
    form = NonceForm(request.POST if request.method == "POST" else None)
    if not form.is_valid():
        return _question(request, remnant, form, obstacles(remnant, request.membership))
    nonce = form.cleaned_data["nonce"]
    who = {"actor": request.user, "address": request.META["REMOTE_ADDR"]}
    try:
        key, key_string = replace(remnant, nonce=nonce, **who)
    except AlreadyCreated:
        return already_created(request)
    except KeyRefused as refusal:
        return _question(request, remnant, form, [str(refusal)])
    return created(request, key, key_string, _hint(remnant, key))


@require_POST
@_remnant_view
def leak_dismiss(request: TeamRequest, remnant: Remnant) -> HttpResponse:
    dismiss(remnant, actor=request.user, address=request.META["REMOTE_ADDR"])
    return _done(request, f"The notice about {remnant.name} is dismissed.")


@require_POST
@team_view(Role.MEMBER)
def leaks_dismiss(request: TeamRequest) -> HttpResponse:
    """All that stand above this member's pages, each in a transaction of its own."""
    for remnant in Remnant.objects.changeable_by(request.membership):
        with suppress(Remnant.DoesNotExist):
            dismiss(remnant, actor=request.user, address=request.META["REMOTE_ADDR"])
    return _done(request, "The notices about deleted keys are dismissed.")


@require_safe
@team_view(Role.VIEWER)
def leaks(request: TeamRequest) -> HttpResponse:
    """The banner by itself, for a page on which something changed; each page begins with it."""
    context = {"beside": request.GET.get("beside", "")}
    return render_part(request, "leaks/banner.html", "leaks/_banner.html", context)


def _question(
    request: TeamRequest, remnant: Remnant, form: NonceForm, told: list[str]
) -> HttpResponse:
    context = {
        "remnant": remnant,
        "key": like(remnant, request.team),
        "form": form,
        "obstacles": told,
    }
    status = 422 if form.is_bound else 200
    return render_part(request, "keys/replace.html", "keys/_replace.html", context, status=status)


def _hint(remnant: Remnant, key: ApiKey) -> str:
    """What it is, and where it is less than the one that is gone."""
    end = f"expires on {key.expires_at:%Y-%m-%d}" if key.expires_at else "never expires"
    told = f"It belongs to {key.owner.get_username()}, and {end}"
    if key.expires_at != remnant.expires_at:
        told += ", which is as late as the policy allows now"
    if key.limits != remnant.limits:
        told += ". Its limits are lower, as those of new keys are by now"
    return f"{told}."


def _settled(request: TeamRequest, public_id: str) -> HttpResponse:
    """Nothing is left to act on; whoever reloads the page with the new key is told why."""
    form = NonceForm(request.POST)
    nonce = form.cleaned_data["nonce"] if form.is_valid() else ""
    if nonce and SpentNonce.objects.filter(nonce=nonce).exists():
        return already_created(request)
    return gone(request, public_id)


def _done(request: TeamRequest, told: str) -> HttpResponse:
    if request.htmx:
        events = {"keys-changed": None, "told": told}
        return HttpResponse(status=204, headers={"HX-Trigger": json.dumps(events)})
    messages.success(request, told)
    return redirect("keys:list", request.team.slug)
