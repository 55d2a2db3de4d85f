"""Model servers, served models and routes in Django's admin. Credentials are write-only."""

from typing import Any

from django import forms
from django.contrib import admin
from django.core.validators import RegexValidator

from keyportal.catalog import circuit_breaker
from keyportal.catalog.discovery import normalize_base_url
from keyportal.catalog.headers import validate as validate_headers
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.teams.admin import ConfirmedAdmin


class WriteOnlyTextarea(forms.Textarea):
    """Never shows what was entered, like a password field, also after a mistake elsewhere."""

    def format_value(self, value: object) -> str:
        return ""


class UpstreamForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    credential = forms.CharField(
        required=False,
        # Attack: header injection. The credential becomes a header value, so it has no line break.
        validators=[RegexValidator(r"\A[!-~]*\Z", "Use visible ASCII characters only.")],
        widget=forms.PasswordInput(
            attrs={"autocomplete": "new-password", "class": "vTextField"}, render_value=False
        ),
        help_text="The bearer token that Keyportal sends to this model server. Stored encrypted "
        "and never displayed. Leave empty to keep the current one.",
    )
    forget_credential = forms.BooleanField(
        required=False, help_text="Call this model server without a credential from now on."
    )
    headers = forms.CharField(
        required=False,
        validators=[validate_headers],
        widget=WriteOnlyTextarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="Headers that this model server needs with each call, one `Name: value` a line. "
        "Stored encrypted and never displayed. Leave empty to keep the current ones.",
    )
    forget_headers = forms.BooleanField(
        required=False, help_text="Call this model server without these headers from now on."
    )

    class Meta:
        model = Upstream
        fields = [
            "name",
            "base_url",
            "credential_header",
            "takes_stream_options",
            "connect_timeout",
            "first_byte_timeout",
            "read_timeout",
            "sends_keepalive",
            "ca_file",
            "client_certificate_file",
        ]
        help_texts = {
            "base_url": "As for an OpenAI client, such as http://127.0.0.1:8001/v1. Without a "
            "path, /v1 is added. A query, such as ?api-version=2024-10-21, goes with each call; "
            "it is displayed, so it must not contain a secret."
        }

    def clean_base_url(self) -> str:
        return normalize_base_url(self.cleaned_data["base_url"])

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        for name in ("credential", "headers"):
            secret, forget = cleaned.get(name, ""), cleaned.get(f"forget_{name}")
            if secret and forget:
                self.add_error(f"forget_{name}", "Enter a new value or forget the old, not both.")
            if secret or forget:
                # Set it before the validation of the model, which checks URL and secrets together.
                setattr(self.instance, name, secret)
        return cleaned


@admin.register(Upstream)
class UpstreamAdmin(ConfirmedAdmin):
    form = UpstreamForm
    fields = [
        "name",
        "base_url",
        "credential",
        "forget_credential",
        "credential_header",
        "headers",
        "forget_headers",
        "takes_stream_options",
        "connect_timeout",
        "first_byte_timeout",
        "read_timeout",
        "sends_keepalive",
        "ca_file",
        "client_certificate_file",
    ]
    list_display = ["name", "base_url", "has_credential", "has_headers", "health", "created_at"]
    search_fields = ["name", "base_url"]

    @admin.display(boolean=True, description="Has credential")
    def has_credential(self, upstream: Upstream) -> bool:
        return bool(upstream.encrypted_credential)

    @admin.display(boolean=True, description="Has headers")
    def has_headers(self, upstream: Upstream) -> bool:
        return bool(upstream.encrypted_headers)

    @admin.display(description="Health, as seen by this worker")
    def health(self, upstream: Upstream) -> str:
        breaker = circuit_breaker.breaker_for(upstream.fingerprint)
        return f"{breaker}; {breaker.calls} in flight"


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
