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
    rotation_views,
    views,
)

app_name = "keys"
urlpatterns = [
    path("keys/", views.key_list, name="list"),
    path("keys/create/", views.key_create, name="create"),
    # No public id is so short.
    path("keys/bulk/delete/", bulk_views.keys_delete, name="bulk_delete"),
    path("keys/bulk/disable/", bulk_views.keys_disable, name="bulk_disable"),
    path("keys/<str:public_id>/", page_views.key_page, name="key"),
    path("keys/<str:public_id>/delete/", views.key_delete, name="delete"),
    path("keys/<str:public_id>/receipt/", views.key_receipt, name="receipt"),
    path("keys/<str:public_id>/limits/", limit_views.key_limits, name="limits"),
    path("keys/<str:public_id>/permissions/", change_views.key_permissions, name="permissions"),
    path("keys/<str:public_id>/edit/", change_views.key_edit, name="edit"),
    path("keys/<str:public_id>/expiry/", change_views.key_expiry, name="expiry"),
    path("keys/<str:public_id>/hand-over/", change_views.key_hand_over, name="hand_over"),
    path("keys/<str:public_id>/disable/", change_views.key_disable, name="disable"),
    path("keys/<str:public_id>/enable/", change_views.key_enable, name="enable"),
    path("keys/<str:public_id>/rotate/", rotation_views.key_rotate, name="rotate"),
    path("keys/<str:public_id>/end-old/", rotation_views.key_end_old, name="end_old"),
    path("limits/", limit_views.team_limits, name="team_limits"),
    path("health/", health_views.key_health, name="health"),
    path("policy/", policy_views.team_policy, name="policy"),
    path("templates/", preset_views.preset_list, name="presets"),
    path("templates/create/", preset_views.preset_create, name="preset_create"),
    path("templates/<int:number>/change/", preset_views.preset_change, name="preset_change"),
    path("templates/<int:number>/delete/", preset_views.preset_delete, name="preset_delete"),
    path("overview/", views.overview, name="overview"),
]
