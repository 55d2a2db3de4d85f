"""URLs under /teams/<slug>/: service accounts, and the general settings."""

from django.urls import path

from keyportal.teams.lifecycle.views import general, team_delete, team_off, team_slug
from keyportal.teams.service_accounts import views as service_accounts

app_name = "teams"
urlpatterns = [
    path("settings/", general, name="general"),
    path("settings/slug/", team_slug, name="slug"),
    path("settings/off/", team_off, name="off"),
    path("settings/delete/", team_delete, name="delete"),
    path("service-accounts/", service_accounts.account_list, name="service_accounts"),
    path(
        "service-accounts/create/",
        service_accounts.account_create,
        name="service_account_create",
    ),
    path(
        "service-accounts/<int:account_id>/change/",
        service_accounts.account_change,
        name="service_account_change",
    ),
    path(
        "service-accounts/<int:account_id>/delete/",
        service_accounts.account_delete,
        name="service_account_delete",
    ),
]
