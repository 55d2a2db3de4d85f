"""URLs of model servers: under /operators/ all of them, under /teams/<slug>/ those of a team."""

from django.urls import path

from keyportal.operators.views import discovery, servers

app_name = "team_servers"
urlpatterns = [
    path("servers/", servers.server_list, name="servers"),
    path("servers/add/", servers.server_add, name="server_add"),
    path("servers/<int:server_id>/", servers.server, name="server"),
    path("servers/<int:server_id>/edit/", servers.server_edit, name="server_edit"),
    path("servers/<int:server_id>/off/", servers.server_off, name="server_off"),
    path("servers/<int:server_id>/on/", servers.server_on, name="server_on"),
    path("servers/<int:server_id>/delete/", servers.server_delete, name="server_delete"),
    path("servers/<int:server_id>/test/", discovery.server_test, name="server_test"),
    path("servers/<int:server_id>/discover/", discovery.server_discover, name="server_discover"),
    path("servers/<int:server_id>/models/add/", discovery.model_add, name="model_add"),
    path(
        "servers/<int:server_id>/routes/<int:route_id>/delete/",
        discovery.route_delete,
        name="route_delete",
    ),
]
