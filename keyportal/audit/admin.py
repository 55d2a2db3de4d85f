"""Audit events and tombstones in Django's admin, read-only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from keyportal.audit.models import AuditEvent, Tombstone


class HistoryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # not generic at run time
    show_full_result_count = False
    ordering = ["-id"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(AuditEvent)
class AuditEventAdmin(HistoryAdmin):
    list_display = [
        "created_at",
        "action",
        "actor",
        "actor_id",
        "via",
        "target",
        "team_slug",
        "address",
    ]
    list_filter = ["action"]
    search_fields = ["actor", "target", "team_slug", "address"]


@admin.register(Tombstone)
class TombstoneAdmin(HistoryAdmin):
    """Deleted keys. The digest is not displayed; only the gateway needs it."""

    list_display = ["deleted_at", "public_id", "name", "team_slug", "deleted_by_id"]
    search_fields = ["public_id", "name", "team_slug"]
    fields = ["public_id", "name", "team_slug", "deleted_at", "deleted_by_id"]
