"""Under /teams/<slug>/: the team's keys, their limits, and what a key is."""

from django.urls import path

from keyportal.keys import limit_views, page_views, views

app_name = "keys"
urlpatterns = [
    path("keys/", views.key_list, name="list"),
    path("keys/create/", views.key_create, name="create"),
    path("keys/<str:public_id>/", page_views.key_page, name="key"),
    path("keys/<str:public_id>/delete/", views.key_delete, name="delete"),
    path("keys/<str:public_id>/receipt/", views.key_receipt, name="receipt"),
    path("keys/<str:public_id>/limits/", limit_views.key_limits, name="limits"),
    path("limits/", limit_views.team_limits, name="team_limits"),
    path("overview/", views.overview, name="overview"),
]
