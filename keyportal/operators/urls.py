"""URLs under /operators/, for superusers only."""

from django.urls import path

from keyportal.operators import server_urls
from keyportal.operators.views import health, models, people, providers, teams
from keyportal.operators.views import settings as settings_page

app_name = "operators"
urlpatterns = [
    path("", health.home, name="home"),
    path("teams/", teams.team_list, name="teams"),
    path("teams/create/", teams.team_create, name="team_create"),
    path("teams/<int:team_id>/", teams.team, name="team"),
    path("teams/<int:team_id>/off/", teams.team_off, name="team_off"),
    path("teams/<int:team_id>/on/", teams.team_on, name="team_on"),
    path("people/", people.person_list, name="people"),
    path("people/<int:person_id>/", people.person, name="person"),
    *(
        path(f"people/<int:person_id>/{address}/", people.person_act, {"act": name}, name=name)
        for address, name in (
            ("deactivate", "person_deactivate"),
            ("activate", "person_activate"),
            ("factors/reset", "factor_reset"),
            ("operator/grant", "operator_grant"),
            ("operator/revoke", "operator_revoke"),
        )
    ),
    path("models/", models.model_list, name="models"),
    path("models/<int:model_id>/", models.model, name="model"),
    path("models/<int:model_id>/aliases/add/", models.alias_add, name="alias_add"),
    path(
        "models/<int:model_id>/aliases/<int:alias_id>/delete/",
        models.alias_delete,
        name="alias_delete",
    ),
    *server_urls.urlpatterns,
    path("sign-in/", providers.sign_in, name="sign_in"),
    path("sign-in/add/", providers.provider_add, name="provider_add"),
    path("sign-in/<int:row_id>/", providers.provider, name="provider"),
    path("sign-in/<int:row_id>/edit/", providers.provider_edit, name="provider_edit"),
    path("sign-in/<int:row_id>/off/", providers.provider_off, name="provider_off"),
    path("sign-in/<int:row_id>/on/", providers.provider_on, name="provider_on"),
    path("sign-in/<int:row_id>/delete/", providers.provider_delete, name="provider_delete"),
    path("sign-in/<int:row_id>/test/", providers.provider_test, name="provider_test"),
    path("settings/", settings_page.in_force, name="settings"),
    path("health/", health.health, name="health"),
]
