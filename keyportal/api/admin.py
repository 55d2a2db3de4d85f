"""Management keys in Django's admin: they can be viewed and deleted, not created or changed."""

from typing import Any, cast

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from keyportal.api.models import ManagementKey
from keyportal.teams.access import Operator
from keyportal.teams.models import User


@admin.register(ManagementKey)
class ManagementKeyAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    fields = readonly_fields = (
        "name",
        "masked",
        "team",
        "owner",
        "scopes",
        "allowed_models",
        "endpoints",
        "allowed_networks",
        "created_at",
        "expires_at",
        "last_used_at",
        "last_used_address",
    )
    list_display = ["name", "masked", "team", "owner", "created_at", "expires_at", "last_used_at"]
    search_fields = ["name", "public_id", "team__slug", "team__name", "owner__username"]
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[ManagementKey]:
        return ManagementKey.objects.select_related("team", "owner").order_by("-id")

    @admin.display(description="Management key")
    def masked(self, key: ManagementKey) -> str:
        return key.masked

    def has_add_permission(self, request: HttpRequest) -> bool:
        """The admin can't show the key string once, as the portal does."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def delete_model(self, request: HttpRequest, obj: ManagementKey) -> None:
        _revoke(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[ManagementKey]) -> None:
        for key in queryset:
            _revoke(request, key)


def _revoke(request: HttpRequest, key: ManagementKey) -> None:
    try:
        actor = Operator(cast("User", request.user), "api.delete_managementkey")
        key.revoke(actor=actor, address=request.META.get("REMOTE_ADDR"))
    except ManagementKey.DoesNotExist:
        return  # It was deleted at the same time by another request.
