"""URLs under /teams/<slug>/: the audit page."""

from django.urls import path

from keyportal.audit.views import audit

app_name = "audit"
urlpatterns = [path("audit/", audit, name="list")]
