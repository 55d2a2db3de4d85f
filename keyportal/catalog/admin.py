"""Upstreams, models and routes in Django's admin. A credential goes in and never comes out."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.validators import RegexValidator

from keyportal.catalog import circuit_breaker
from keyportal.catalog.discovery import normalize_base_url
from keyportal.catalog.models import Route, ServedModel, Upstream


class UpstreamForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    credential = forms.CharField(
        required=False,
        # It becomes a header, so a line break in it would become another header.
        validators=[RegexValidator(r"\A[!-~]*\Z", "Use visible ASCII characters only.")],
        widget=forms.PasswordInput(
            attrs={"autocomplete": "new-password", "class": "vTextField"}, render_value=False
        ),
        help_text="The bearer token that we show this server. Kept encrypted, never shown again; "
        "empty leaves it as it is.",
    )
    forget_credential = forms.BooleanField(
        required=False, help_text="From now on, call this server without a credential."
    )

    class Meta:
        model = Upstream
        fields = ["name", "base_url", "connect_timeout", "read_timeout"]
        help_texts = {
            "base_url": "As an OpenAI client takes it, such as http://127.0.0.1:8001/v1. "
            "With no path, /v1 is meant."
        }

    def clean_base_url(self) -> str:
        return normalize_base_url(self.cleaned_data["base_url"])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        new, forget = cleaned.get("credential", ""), cleaned.get("forget_credential")
        if new and forget:
            self.add_error("forget_credential", "Give a new credential or forget it, not both.")
        if new or forget:
            # Before the model's own rules, which look at both the address and the credential.
            self.instance.credential = new
        return cleaned


@admin.register(Upstream)
class UpstreamAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    form = UpstreamForm
    fields = [
        "name",
        "base_url",
        "credential",
        "forget_credential",
        "connect_timeout",
        "read_timeout",
    ]
    list_display = ["name", "base_url", "has_credential", "health", "created_at"]
    search_fields = ["name", "base_url"]

    @admin.display(boolean=True, description="credential")
    def has_credential(self, upstream: Upstream) -> bool:
        return bool(upstream.encrypted_credential)

    @admin.display(description="health, as this worker sees it")
    def health(self, upstream: Upstream) -> str:
        found = circuit_breaker.breaker_for(upstream.fingerprint)
        return f"{found}; {found.calls} in flight"


class RouteInline(admin.TabularInline):  # type: ignore[type-arg]  # not generic at run time
    model = Route
    autocomplete_fields = ["upstream"]
    extra = 0


@admin.register(ServedModel)
class ServedModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    list_display = ["name", "team", "created_at"]
    list_select_related = ["team"]
    search_fields = ["name"]
    autocomplete_fields = ["team"]
    inlines = [RouteInline]


@admin.register(Route)
class RouteAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    list_display = ["model", "upstream", "upstream_model", "weight"]
    list_select_related = ["model", "upstream"]
    list_filter = ["upstream"]
    search_fields = ["model__name", "upstream__name", "upstream_model"]
    autocomplete_fields = ["model", "upstream"]
