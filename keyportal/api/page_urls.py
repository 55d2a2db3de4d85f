"""URLs under /teams/<slug>/: the pages of the team's management keys, for its admins."""

from django.urls import path

from keyportal.api import views
from keyportal.keys.converters import PUBLIC_ID

app_name = "management_keys"
urlpatterns = [
    path("management-keys/", views.management_key_list, name="list"),
    path("management-keys/create/", views.management_key_create, name="create"),
    path(f"management-keys/{PUBLIC_ID}/delete/", views.management_key_delete, name="delete"),
]
