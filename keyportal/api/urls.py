"""Everything under /api/: addresses come from what is declared in `v1`, and all else is nowhere."""

import re
from itertools import groupby

from django.urls import URLPattern, path, re_path

from keyportal.api.framework import openapi
from keyportal.api.framework.dispatch import guarded, nowhere, view_of
from keyportal.api.framework.operations import PATH_PARTS, Operation
from keyportal.api.v1 import audit, key_actions, keys, members, models, teams, usage

app_name = "api"
OPERATIONS = [
    operation
    for resource in (teams, members, keys, key_actions, models, usage, audit)
    for operation in resource.operations.found
]


def _pattern(address: str) -> str:
    parts = re.sub(r"\{(\w+)\}", lambda found: f"(?P<{found[1]}>{PATH_PARTS[found[1]]})", address)
    return rf"^v1/{parts}\Z"


def _addresses() -> list[URLPattern]:
    by_path = sorted(OPERATIONS, key=_path)
    return [
        re_path(_pattern(address), view_of({one.method: one for one in found}), name=address)
        for address, found in groupby(by_path, key=_path)
    ]


def _path(operation: Operation) -> str:
    return operation.path


urlpatterns = [
    path("v1/openapi.json", guarded(openapi.view(OPERATIONS)), name="openapi"),
    *_addresses(),
    re_path(r"", nowhere, name="nowhere"),
]
