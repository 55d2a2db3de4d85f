"""URLs under /teams/<slug>/: usage, calls and running calls."""

from django.urls import path

from keyportal.usage import views

app_name = "usage"
urlpatterns = [
    path("usage/", views.usage, name="usage"),
    path("usage/csv/", views.usage_csv, name="usage_csv"),
    path("calls/", views.calls, name="calls"),
    path("calls/<int:number>/", views.call, name="call"),
    path("running/", views.running, name="running"),
    # The gateway chooses the ids, and they may contain slashes.
    path("running/<path:call_id>/end/", views.end_call, name="end_call"),
]
