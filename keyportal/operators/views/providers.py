"""Identity providers: list, add, edit, test, switch off and on, delete."""

from collections.abc import Mapping
from copy import copy

from allauth.socialaccount.models import SocialAccount
from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from keyportal.operators.access import OperatorRequest, lock_operators, operator_view
from keyportal.operators.connections import release_connection
from keyportal.operators.identity_providers.changes import lock_provider
from keyportal.operators.identity_providers.forms import ProviderForm
from keyportal.operators.identity_providers.people import effect_of_end, left_roles
from keyportal.operators.identity_providers.presets import PRESETS
from keyportal.operators.identity_providers.trial import try_provider
from keyportal.teams.forms import preset_named
from keyportal.teams.openid.provider import callback_url, logout_url
from keyportal.teams.openid.providers import in_environment
from keyportal.teams.openid.stored import StoredProvider
from keyportal.teams.sign_in.reauthentication import recently_authenticated

FORM = "operators/provider_form.html"


@require_safe
@operator_view
def sign_in(request: OperatorRequest) -> HttpResponse:
    context = {
        "environment": settings.OIDC_PROVIDERS,
        "rows": [(row, _is_shadowed(row)) for row in StoredProvider.objects.order_by("pk")],
        "has_passwords": settings.PASSWORD_SIGN_IN,
        "left": left_roles(),
    }
    return render(request, "operators/sign_in.html", context)


def _is_shadowed(row: StoredProvider) -> bool:
    return StoredProvider.objects.filter(in_environment(), pk=row.pk).exists()


@require_safe
@operator_view
def provider(request: OperatorRequest, row_id: int) -> HttpResponse:
    row = get_object_or_404(StoredProvider, pk=row_id)
    context = {
        "row": row,
        "is_shadowed": _is_shadowed(row),
        "callback_url": callback_url(request, row.provider_id),
        "logout_url": logout_url(request, row.provider_id),
        "connected": SocialAccount.objects.filter(provider=row.provider_id).count(),
    }
    return render(request, "operators/provider.html", context)


@sensitive_post_parameters("secret")
@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def provider_add(request: OperatorRequest) -> HttpResponse:
    preset = preset_named(request.GET.get("preset", ""), PRESETS)
    # Not the ID that was entered: it may be no slug, and then has no address.
    id_ = preset.name if preset and preset.address else "ID"
    context = {
        "presets": PRESETS,
        "preset": preset,
        "callback_id": id_,
        "callback_url": callback_url(request, id_),
    }
    if request.method != "POST":
        form = ProviderForm(initial=preset.initial if preset else None)
        return render(request, FORM, {"form": form, **context})
    return _save(request, ProviderForm(request.POST), context)


@sensitive_post_parameters("secret")
@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def provider_edit(request: OperatorRequest, row_id: int) -> HttpResponse:
    row = get_object_or_404(StoredProvider, pk=row_id)
    context = {"row": row, "callback_url": callback_url(request, row.provider_id)}
    if request.method != "POST":
        return render(request, FORM, {"form": ProviderForm(instance=row), **context})
    # A copy, so that the page has the stored name when the form is refused.
    return _save(request, ProviderForm(request.POST, instance=copy(row)), context)


def _save(
    request: OperatorRequest, form: ProviderForm, context: Mapping[str, object]
) -> HttpResponse:
    pk = form.instance.pk
    with lock_provider(request.user, pk) if pk else lock_operators(request.user):
        row = form.save_changes() if form.is_valid() else None
    if row is None:
        form.ask_for_secret_again()
        return render(request, FORM, {"form": form, **context}, status=422)
    what = "changed" if "row" in context else "added. Register its redirect address, then test it"
    messages.success(request, f"{row.name} is {what}.")
    return redirect("operators:provider", row.pk)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def provider_off(request: OperatorRequest, row_id: int) -> HttpResponse:
    row = get_object_or_404(StoredProvider, pk=row_id)
    if request.method != "POST":
        context = {"row": row, "effect": effect_of_end(row)}
        return render(request, "operators/provider_off.html", context)
    return _switch(request, row_id, is_active=False)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated(to_read=False)
def provider_on(request: OperatorRequest, row_id: int) -> HttpResponse:
    if request.method != "POST":
        return redirect("operators:provider", row_id)
    return _switch(request, row_id, is_active=True)


def _switch(request: OperatorRequest, row_id: int, *, is_active: bool) -> HttpResponse:
    with lock_provider(request.user, row_id) as row:
        row.is_active = is_active
        row.save(update_fields=["is_active"])
    messages.success(request, f"{row.name} is switched {'on' if is_active else 'off'}.")
    return redirect("operators:provider", row_id)


@require_http_methods(["GET", "POST"])
@operator_view
@recently_authenticated()
def provider_delete(request: OperatorRequest, row_id: int) -> HttpResponse:
    row = get_object_or_404(StoredProvider, pk=row_id)
    if request.method != "POST":
        context = {"row": row, "effect": effect_of_end(row)}
        return render(request, "operators/provider_delete.html", context)
    with lock_provider(request.user, row_id) as row:
        # Attack: a later provider with this ID has other people with the same identifiers (`sub`).
        if row.provider_id not in {provider.id for provider in settings.OIDC_PROVIDERS}:
            SocialAccount.objects.filter(provider=row.provider_id).delete()
        row.delete()
    messages.success(request, f"{row.name} is deleted.")
    return redirect("operators:sign_in")


@require_POST
@operator_view
def provider_test(request: OperatorRequest, row_id: int) -> HttpResponse:
    row = get_object_or_404(StoredProvider, pk=row_id)
    steps = None
    if row.is_readable:
        configuration, url = row.configuration, callback_url(request, row.provider_id)
        release_connection()
        steps = list(try_provider(configuration, url))
    return render(request, "operators/provider_test.html", {"row": row, "steps": steps})
