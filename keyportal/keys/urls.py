"""URLs under /teams/<slug>/: keys, their limits, the settings of the team, and the guide."""

from django.urls import path

from keyportal.keys.converters import PUBLIC_ID
from keyportal.keys.views.bulk import keys_delete, keys_disable
from keyportal.keys.views.create import guide, key_create
from keyportal.keys.views.delete import key_delete
from keyportal.keys.views.detail import key_page, key_receipt
from keyportal.keys.views.edit import (
    key_disable,
    key_edit,
    key_enable,
    key_expiry,
    key_hand_over,
    key_manage,
    key_permissions,
    key_unmanage,
)
from keyportal.keys.views.health import key_health
from keyportal.keys.views.limits import key_limits, team_limits
from keyportal.keys.views.list import key_list
from keyportal.keys.views.policy import team_policy
from keyportal.keys.views.rotate import key_end_old, key_rotate
from keyportal.keys.views.templates import (
    template_change,
    template_create,
    template_delete,
    template_list,
)

app_name = "keys"
urlpatterns = [
    path("keys/", key_list, name="list"),
    path("keys/create/", key_create, name="create"),
    path("keys/bulk/delete/", keys_delete, name="bulk_delete"),
    path("keys/bulk/disable/", keys_disable, name="bulk_disable"),
    path(f"keys/{PUBLIC_ID}/", key_page, name="key"),
    path(f"keys/{PUBLIC_ID}/delete/", key_delete, name="delete"),
    path(f"keys/{PUBLIC_ID}/receipt/", key_receipt, name="receipt"),
    path(f"keys/{PUBLIC_ID}/limits/", key_limits, name="limits"),
    path(f"keys/{PUBLIC_ID}/permissions/", key_permissions, name="permissions"),
    path(f"keys/{PUBLIC_ID}/edit/", key_edit, name="edit"),
    path(f"keys/{PUBLIC_ID}/expiry/", key_expiry, name="expiry"),
    path(f"keys/{PUBLIC_ID}/hand-over/", key_hand_over, name="hand_over"),
    path(f"keys/{PUBLIC_ID}/disable/", key_disable, name="disable"),
    path(f"keys/{PUBLIC_ID}/enable/", key_enable, name="enable"),
    path(f"keys/{PUBLIC_ID}/manage/", key_manage, name="manage"),
    path(f"keys/{PUBLIC_ID}/unmanage/", key_unmanage, name="unmanage"),
    path(f"keys/{PUBLIC_ID}/rotate/", key_rotate, name="rotate"),
    path(f"keys/{PUBLIC_ID}/end-old/", key_end_old, name="end_old"),
    path("limits/", team_limits, name="team_limits"),
    path("health/", key_health, name="health"),
    path("policy/", team_policy, name="policy"),
    path("templates/", template_list, name="templates"),
    path("templates/create/", template_create, name="template_create"),
    path("templates/<int:template_id>/change/", template_change, name="template_change"),
    path("templates/<int:template_id>/delete/", template_delete, name="template_delete"),
    path("guide/", guide, name="guide"),
]
