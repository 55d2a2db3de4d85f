"""Model servers, served models and routes in Django's admin. Credentials are write-only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from keyportal.catalog.forms import UpstreamForm
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.teams.admin import ConfirmedAdmin


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
        "is_active",
    ]
    list_display = ["name", "team", "base_url", "has_credential", "has_headers", "created_at"]
    list_select_related = ["team"]
    search_fields = ["name", "base_url"]

    def save_model(self, request: HttpRequest, obj: Upstream, form: Any, change: bool) -> None:
        if "is_active" in form.changed_data:
            obj.is_off_by_team = False
        super().save_model(request, obj, form, change)

    @admin.display(boolean=True, description="Has credential")
    def has_credential(self, upstream: Upstream) -> bool:
        return bool(upstream.encrypted_credential)

    @admin.display(boolean=True, description="Has headers")
    def has_headers(self, upstream: Upstream) -> bool:
        return bool(upstream.encrypted_headers)


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
