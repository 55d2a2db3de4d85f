"""Under /teams/<slug>/: what was used."""

from django.urls import path

from keyportal.usage import views

app_name = "usage"
urlpatterns = [
    path("usage/", views.usage, name="usage"),
    path("usage/csv/", views.usage_csv, name="usage_csv"),
    path("calls/", views.calls, name="calls"),
    path("running/", views.running, name="running"),
    # Ids are the gateway's to choose; no page depends on what they hold.
    path("running/<path:call_id>/end/", views.end_call, name="end_call"),
]
