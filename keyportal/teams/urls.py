"""URLs under /teams/<slug>/: the members."""

from django.urls import path

from keyportal.teams import views

app_name = "teams"
urlpatterns = [path("members/", views.members, name="members")]
