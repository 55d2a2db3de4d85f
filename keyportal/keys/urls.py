"""Under /teams/<slug>/: the team's keys, and what a key is."""

from django.urls import path

from keyportal.keys import views

app_name = "keys"
urlpatterns = [
    path("keys/", views.key_list, name="list"),
    path("keys/create/", views.key_create, name="create"),
    path("keys/<str:public_id>/delete/", views.key_delete, name="delete"),
    path("overview/", views.overview, name="overview"),
]
