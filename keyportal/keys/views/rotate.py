"""Rotate a key: the new key string is shown once. End the old secret early."""

from django import forms
from django.http import HttpResponse
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods

from keyportal.catalog.examples import examples_for
from keyportal.keys.exceptions import KeyActionError, NonceAlreadyUsed
from keyportal.keys.forms.base import NonceForm
from keyportal.keys.keystring import KeyString
from keyportal.keys.models import ApiKey
from keyportal.keys.rotation import GracePeriod, live_secrets, revoke_old_secret, rotate
from keyportal.keys.views.decorators import key_view
from keyportal.keys.views.responses import key_changed
from keyportal.teams.access import TeamRequest
from keyportal.teams.shortcuts import render_dialog

OLD_SECRET_TEXTS = {
    GracePeriod.NOW: "The old secret no longer works.",
    GracePeriod.HOUR: "The old secret works for another hour.",
    GracePeriod.DAY: "The old secret works for another 24 hours.",
    GracePeriod.WEEK: "The old secret works for another 7 days.",
    GracePeriod.FIRST_USE: "The old secret works until the new one is first used.",
}


class RotateForm(NonceForm):
    grace = forms.ChoiceField(choices=GracePeriod.choices, widget=forms.RadioSelect)


@sensitive_post_parameters("nonce")
@require_http_methods(["GET", "POST"])
@key_view
@sensitive_variables("key_string")
def key_rotate(request: TeamRequest, key: ApiKey) -> HttpResponse:
    form = RotateForm(
        request.POST if request.method == "POST" else None, initial={"grace": _default_grace(key)}
    )
    if not form.is_valid():
        return _rotate_form(request, key, form)
    grace = GracePeriod(form.cleaned_data["grace"])
    audit_fields = {"actor": request.user, "address": request.META["REMOTE_ADDR"]}
    try:
        key_string = rotate(key, grace, nonce=form.cleaned_data["nonce"], **audit_fields)
    except NonceAlreadyUsed:
        return _already_rotated(request, key)
    except KeyActionError as error:
        form.add_error("grace", str(error))
        return _rotate_form(request, key, form)
    return _rotated(request, key, key_string, grace)


@require_http_methods(["GET", "POST"])
@key_view
def key_end_old(request: TeamRequest, key: ApiKey) -> HttpResponse:
    if request.method != "POST":
        old = live_secrets(key)[1:2]
        context = {"key": key, "old": old[0] if old else None}
        if old and old[0].last_used_at:
            context["last_use"] = old[0]
        return render_dialog(request, "keys/_end_old.html", context, title="End the old secret")
    revoke_old_secret(key, actor=request.user, address=request.META["REMOTE_ADDR"])
    return key_changed(request, key, f"The old secret of {key.name} no longer works.")


def _default_grace(key: ApiKey) -> GracePeriod:
    """No grace period for a leaked secret, or if the key has two secrets: there can be no third."""
    is_now = key.reported_at is not None or len(live_secrets(key)) > 1
    return GracePeriod.NOW if is_now else GracePeriod.DAY


def _rotate_form(request: TeamRequest, key: ApiKey, form: RotateForm) -> HttpResponse:
    return render_dialog(
        request,
        "keys/_rotate.html",
        {"key": key, "form": form, "is_rotating": len(live_secrets(key)) > 1},
        title="Rotate API key",
        status=422 if form.is_bound else 200,
    )


@sensitive_variables()
def _rotated(
    request: TeamRequest, key: ApiKey, key_string: KeyString, grace: GracePeriod
) -> HttpResponse:
    """The only response with the new key string."""
    context = {
        "key": key,
        "plaintext": key_string.text,
        "old_secret_text": OLD_SECRET_TEXTS[grace],
        "examples": examples_for(request, request.team, key_string.text),
    }
    response = render_dialog(request, "keys/_rotated.html", context, title="API key rotated")
    response["HX-Trigger"] = "keys-changed"
    return response


def _already_rotated(request: TeamRequest, key: ApiKey) -> HttpResponse:
    """Reload the page too: the first response may have been lost."""
    response = render_dialog(
        request, "keys/_already_rotated.html", {"key": key}, title="Already rotated", status=409
    )
    response["HX-Trigger"] = "keys-changed"
    return response
