"""Public URLs: the format of keys, and the report of a leaked key. And the team's banner."""

from django.urls import path

from keyportal.leaks.views import public as views
from keyportal.leaks.views import team

app_name = "leaks"
urlpatterns = [
    path("teams/<slug:slug>/keys/leaks/", team.leak_banner, name="team"),
    path("leaks/report", views.report, name="report"),
    path(".well-known/api-key-format", views.key_format, name="format"),
    path(".well-known/keyportal/api-key-format.json", views.description, name="description"),
    path(".well-known/keyportal/gitleaks.toml", views.gitleaks, name="gitleaks"),
    path(".well-known/keyportal/trufflehog.yaml", views.trufflehog, name="trufflehog"),
    path(".well-known/keyportal/check_keys.py", views.checker, name="checker"),
]
