"""URLs under /operators/, for superusers only."""

from django.urls import path

from keyportal.operators.views import health
from keyportal.operators.views import settings as settings_page

app_name = "operators"
urlpatterns = [
    path("", health.home, name="home"),
    path("settings/", settings_page.in_force, name="settings"),
    path("health/", health.health, name="health"),
]
