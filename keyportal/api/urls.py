"""URLs under /api/, generated from the operations that are declared in `v1`."""

import re
from itertools import groupby

from django.urls import URLPattern, URLResolver, include, path, re_path

from keyportal.api.framework import openapi
from keyportal.api.framework.dispatch import api_view, not_found, with_problems
from keyportal.api.framework.operations import PATH_PARAMETERS, Operation
from keyportal.api.scim.urls import urlpatterns as scim
from keyportal.api.v1 import (
    audit,
    invitations,
    key_actions,
    keys,
    members,
    model_servers,
    models,
    service_accounts,
    teams,
    usage,
)

app_name = "api"
OPERATIONS = [
    operation
    for resource in (
        teams,
        members,
        invitations,
        service_accounts,
        keys,
        key_actions,
        models,
        model_servers,
        usage,
        audit,
    )
    for operation in resource.operations.declared
]


def _url_regex(route: str) -> str:
    regex = re.sub(r"\{(\w+)\}", lambda name: f"(?P<{name[1]}>{PATH_PARAMETERS[name[1]]})", route)
    return rf"^v1/{regex}\Z"


def _api_urls() -> list[URLPattern]:
    by_path = sorted(OPERATIONS, key=_path)
    return [
        re_path(_url_regex(route), api_view({each.method: each for each in operations}), name=route)
        for route, operations in groupby(by_path, key=_path)
    ]


def _path(operation: Operation) -> str:
    return operation.path


urlpatterns: list[URLPattern | URLResolver] = [
    path("v1/openapi.json", with_problems(openapi.document_view(OPERATIONS)), name="openapi"),
    *_api_urls(),
    path("scim/v2/", include(scim)),
    re_path(r"", not_found, name="not-found"),
]
