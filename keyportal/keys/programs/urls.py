"""URLs of the device flow. What follows `/oauth/` is for programs, `/device/` for people."""

from django.urls import path

from keyportal.keys.programs import endpoints, pages

app_name = "programs"
urlpatterns = [
    path(".well-known/oauth-authorization-server", endpoints.metadata, name="metadata"),
    path("oauth/device_authorization", endpoints.begin, name="begin"),
    path("oauth/token", endpoints.token, name="token"),
    path("oauth/revoke", endpoints.revoke, name="revoke"),
    path("device/", pages.enter, name="enter"),
    path("device/approve/", pages.approve, name="approve"),
    path("device/deny/", pages.deny, name="deny"),
]
