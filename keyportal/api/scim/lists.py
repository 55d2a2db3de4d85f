"""Lists: one filter, and pages by the number of their first item (RFC 7644, 3.4.2)."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from django.db.models import Model, Q, QuerySet
from django.http import HttpRequest

from keyportal.api.scim.requests import ScimError

LIST_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
MAX_COUNT = 200
# What Entra and Okta send. Others get an error, and not a list that is not what they asked for.
FILTER = re.compile(r'\s*([\w.:\[\]" ]+?)\s+eq\s+("(?:[^"\\]|\\.)*")\s*', re.IGNORECASE)
Filters = Mapping[str, Callable[[str], Q]]
"""The condition of each attribute, whose name is in lower case."""


def page_of(
    request: HttpRequest,
    rows: "QuerySet[Any]",
    filters: Filters,
    represent: Callable[[Any], Any],
) -> dict[str, Any]:
    if text := request.GET.get("filter", ""):
        rows = rows.filter(_condition(text, filters))
    start = max(_number(request, "startIndex", 1), 1)
    count = min(max(_number(request, "count", MAX_COUNT), 0), MAX_COUNT)
    page: list[Model] = list(rows.order_by("pk")[start - 1 : start - 1 + count])
    return {
        "schemas": [LIST_SCHEMA],
        "totalResults": rows.count(),
        "startIndex": start,
        "itemsPerPage": len(page),
        "Resources": [represent(row) for row in page],
    }


def _condition(text: str, filters: Filters) -> Q:
    match = FILTER.fullmatch(text)
    name = match[1].lower() if match else ""
    if match is None or name not in filters:
        attributes = ", ".join(filters)
        detail = f'A filter is ATTRIBUTE eq "VALUE", with one of these: {attributes}.'
        raise ScimError(400, detail, "invalidFilter")
    try:
        value = str(json.loads(match[2]))
    except ValueError:
        raise ScimError(400, "The value of the filter is no JSON text.", "invalidFilter") from None
    # PostgreSQL can't compare with NUL, and no row has it.
    return Q(pk__in=[]) if "\0" in value else filters[name](value)


def _number(request: HttpRequest, name: str, default: int) -> int:
    text = request.GET.get(name, str(default))
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise ScimError(400, f"{name} is not a number.", "invalidValue")
    return int(text)


def by_id(value: str) -> Q:
    return Q(pk=int(value)) if re.fullmatch(r"[0-9]{1,18}", value) else Q(pk__in=[])
