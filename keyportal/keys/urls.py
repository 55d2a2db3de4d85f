"""Under /teams/<slug>/: the team's keys, their limits, and what a key is."""

from django.urls import path

from keyportal.keys import (
    bulk_views,
    change_views,
    health_views,
    limit_views,
    page_views,
    policy_views,
    preset_views,
    replace_views,
    rotation_views,
    views,
)
from keyportal.keys.converters import PUBLIC_ID

app_name = "keys"
urlpatterns = [
    path("keys/", views.key_list, name="list"),
    path("keys/create/", views.key_create, name="create"),
    path("keys/bulk/delete/", bulk_views.keys_delete, name="bulk_delete"),
    path("keys/bulk/disable/", bulk_views.keys_disable, name="bulk_disable"),
    path("keys/leaks/", replace_views.leaks, name="leaks"),
    path(f"keys/{PUBLIC_ID}/", page_views.key_page, name="key"),
    path(f"keys/{PUBLIC_ID}/delete/", views.key_delete, name="delete"),
    path(f"keys/{PUBLIC_ID}/receipt/", views.key_receipt, name="receipt"),
    path(f"keys/{PUBLIC_ID}/limits/", limit_views.key_limits, name="limits"),
    path(f"keys/{PUBLIC_ID}/permissions/", change_views.key_permissions, name="permissions"),
    path(f"keys/{PUBLIC_ID}/edit/", change_views.key_edit, name="edit"),
    path(f"keys/{PUBLIC_ID}/expiry/", change_views.key_expiry, name="expiry"),
    path(f"keys/{PUBLIC_ID}/hand-over/", change_views.key_hand_over, name="hand_over"),
    path(f"keys/{PUBLIC_ID}/disable/", change_views.key_disable, name="disable"),
    path(f"keys/{PUBLIC_ID}/enable/", change_views.key_enable, name="enable"),
    path(f"keys/{PUBLIC_ID}/manage/", change_views.key_manage, name="manage"),
    path(f"keys/{PUBLIC_ID}/unmanage/", change_views.key_unmanage, name="unmanage"),
    path(f"keys/{PUBLIC_ID}/rotate/", rotation_views.key_rotate, name="rotate"),
    path(f"keys/{PUBLIC_ID}/end-old/", rotation_views.key_end_old, name="end_old"),
    path("limits/", limit_views.team_limits, name="team_limits"),
    path("health/", health_views.key_health, name="health"),
    path("policy/", policy_views.team_policy, name="policy"),
    path("templates/", preset_views.preset_list, name="presets"),
    path("templates/create/", preset_views.preset_create, name="preset_create"),
    path("templates/<int:number>/change/", preset_views.preset_change, name="preset_change"),
    path("templates/<int:number>/delete/", preset_views.preset_delete, name="preset_delete"),
    path("overview/", views.overview, name="overview"),
]
