"""Under /teams/<slug>/: the team's management keys, for its admins."""

from django.urls import path

from keyportal.api import views

app_name = "management_keys"
urlpatterns = [
    path("management-keys/", views.management_key_list, name="list"),
    path("management-keys/create/", views.management_key_create, name="create"),
    path("management-keys/<str:public_id>/delete/", views.management_key_delete, name="delete"),
]
