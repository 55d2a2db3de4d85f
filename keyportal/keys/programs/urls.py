"""URLs of the device flow. What follows `/oauth/` is for programs, `/device/` for people."""

from django.conf import settings
from django.urls import path

from keyportal.keys.programs import endpoints, pages

app_name = "programs"
METADATA = ".well-known/oauth-authorization-server"
urlpatterns = [
    path(METADATA, endpoints.metadata, name="metadata"),
    path("oauth/device_authorization", endpoints.begin, name="begin"),
    path("oauth/token", endpoints.token, name="token"),
    path("oauth/revoke", endpoints.revoke, name="revoke"),
    path("device/", pages.enter, name="enter"),
    path("device/approve/", pages.approve, name="approve"),
    path("device/deny/", pages.deny, name="deny"),
]
if settings.BASE_PATH:
    # RFC 8414, 3.1: the path of the issuer comes last, and nothing of it first.
    rest = METADATA + settings.BASE_PATH
    urlpatterns.append(path(rest, endpoints.metadata, name="metadata_of_path"))
