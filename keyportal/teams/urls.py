"""URLs under /teams/<slug>/: the members, and the general settings."""

from django.urls import path

from keyportal.teams import views
from keyportal.teams.lifecycle.views import general

app_name = "teams"
urlpatterns = [
    path("members/", views.members, name="members"),
    path("settings/", general, name="general"),
]
