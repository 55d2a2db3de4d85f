"""URLs under /api/scim/v2/."""

from typing import Any

from django.http import HttpRequest
from django.urls import path, re_path

from keyportal.api.scim import groups, users
from keyportal.api.scim.lists import LIST_SCHEMA, MAX_COUNT
from keyportal.api.scim.requests import not_found, scim_view
from keyportal.api.scim.resources import GROUP_SCHEMA, USER_SCHEMA, url_of

NOT_SUPPORTED = {"supported": False}
RESOURCE_TYPES = [
    {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ResourceType"],
        "id": name,
        "name": name,
        "endpoint": f"/{name}s",
        "schema": schema,
    }
    for name, schema in (("User", USER_SCHEMA), ("Group", GROUP_SCHEMA))
]


def _configuration(_: HttpRequest) -> tuple[int, Any]:
    return 200, {
        "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
        "patch": {"supported": True},
        "bulk": NOT_SUPPORTED | {"maxOperations": 0, "maxPayloadSize": 0},
        "filter": {"supported": True, "maxResults": MAX_COUNT},
        "changePassword": NOT_SUPPORTED,
        "sort": NOT_SUPPORTED,
        "etag": NOT_SUPPORTED,
        "authenticationSchemes": [
            {"type": "oauthbearertoken", "name": "Bearer token", "description": "By header"}
        ],
        "meta": {"location": url_of("ServiceProviderConfig")},
    }


def _resource_types(_: HttpRequest) -> tuple[int, Any]:
    page = {"startIndex": 1, "itemsPerPage": len(RESOURCE_TYPES)}
    total = {"totalResults": len(RESOURCE_TYPES), "Resources": RESOURCE_TYPES}
    return 200, {"schemas": [LIST_SCHEMA]} | page | total


def _nothing(_: HttpRequest) -> tuple[int, Any]:
    raise not_found()


methods = ("get", "post", "put", "patch", "delete")
user = scim_view(get=users.read, put=users.replace, patch=users.update, delete=users.delete)
group = scim_view(get=groups.read, put=groups.replace, patch=groups.update, delete=groups.delete)
urlpatterns = [
    path("ServiceProviderConfig", scim_view(get=_configuration), name="scim-configuration"),
    path("ResourceTypes", scim_view(get=_resource_types), name="scim-resource-types"),
    path("Users", scim_view(get=users.index, post=users.create), name="scim-users"),
    path("Users/<str:user_id>", user, name="scim-user"),
    path("Groups", scim_view(get=groups.index, post=groups.create), name="scim-groups"),
    path("Groups/<str:group_id>", group, name="scim-group"),
    re_path(r"", scim_view(**dict.fromkeys(methods, _nothing)), name="scim-not-found"),
]
