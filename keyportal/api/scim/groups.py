"""Groups: whoever comes into one or leaves it gets or loses its roles in teams at once."""

import json
import re
from collections.abc import Callable
from typing import Any

from django.db.models import Q
from django.http import HttpRequest

from keyportal.api.models import ProvisionedGroup
from keyportal.api.models.provisioned import MAX_LENGTH
from keyportal.api.scim import lists, memberships
from keyportal.api.scim.requests import (
    ScimError,
    lowered,
    not_found,
    read_object,
    read_operations,
)
from keyportal.api.scim.resources import group_resource
from keyportal.teams.models import User

# `members[value eq "7"]`
MEMBER_PATH = re.compile(r'members\[\s*value\s+eq\s+("[^"]*")\s*\]', re.IGNORECASE)
FILTERS: lists.Filters = {
    "displayname": lambda value: Q(name__iexact=value),
    "externalid": lambda value: Q(external_id=value),
    "id": lists.by_id,
}


def index(request: HttpRequest) -> tuple[int, Any]:
    with_members = "members" not in request.GET.get("excludedAttributes", "").lower()

    def represent(group: ProvisionedGroup) -> dict[str, Any]:
        return group_resource(group, with_members=with_members)

    groups = ProvisionedGroup.objects.prefetch_related("members")
    return 200, lists.page_of(request, groups, FILTERS, represent)


def read(request: HttpRequest, group_id: str) -> tuple[int, Any]:
    with_members = "members" not in request.GET.get("excludedAttributes", "").lower()
    group = ProvisionedGroup.objects.filter(lists.by_id(group_id)).first()
    if group is None:
        raise not_found()
    return 200, group_resource(group, with_members=with_members)


def create(request: HttpRequest) -> tuple[int, Any]:
    resource = read_object(request)
    group = ProvisionedGroup()
    _describe(group, resource)
    group.save()
    _set_members(group, _people(resource.get("members") or []))
    return 201, group_resource(group)


def replace(request: HttpRequest, group_id: str) -> tuple[int, Any]:
    group, resource = _locked(group_id), read_object(request)
    _rename(group, resource)
    _set_members(group, _people(resource.get("members") or []))
    return 200, group_resource(group)


def update(request: HttpRequest, group_id: str) -> tuple[int, Any]:
    group = _locked(group_id)
    people = {*group.members.values_list("pk", flat=True)}
    for operation in read_operations(request):
        path, value = operation["path"], operation.get("value")
        if match := MEMBER_PATH.fullmatch(path):
            path, value = "members", [{"value": json.loads(match[1])}]
        if path.lower() == "members":
            people = _changed(people, operation["op"], value)
        elif path:
            _rename(group, {path.lower(): value})
        else:
            _rename(group, lowered(value))
            if "members" in lowered(value):
                people = _changed(people, operation["op"], lowered(value)["members"])
    _set_members(group, people)
    return 200, group_resource(group)


def _changed(people: set[int], op: str, value: Any) -> set[int]:
    if op == "remove" and value is None:
        return set()
    given = _people(value)
    by_op: dict[str, Callable[[], set[int]]] = {
        "add": lambda: people | given,
        "remove": lambda: people - given,
        "replace": lambda: given,
    }
    return by_op[op]()


def delete(_: HttpRequest, group_id: str) -> tuple[int, Any]:
    group = _locked(group_id)
    _set_members(group, set())
    group.delete()
    return 204, None


def _locked(group_id: str) -> ProvisionedGroup:
    group = ProvisionedGroup.objects.filter(lists.by_id(group_id)).select_for_update().first()
    if group is None:
        raise not_found()
    return group


def _rename(group: ProvisionedGroup, resource: dict[str, Any]) -> None:
    """The roles of its members change too, if the settings name the old or the new name."""
    before = group.name
    _describe(group, resource)
    group.save(update_fields=["name", "external_id"])
    if group.name != before:
        for user in group.members.order_by("pk"):
            memberships.apply(user)


def _describe(group: ProvisionedGroup, resource: dict[str, Any]) -> None:
    name = resource.get("displayname", group.name)
    external_id = resource.get("externalid") or group.external_id
    for text in (name, external_id):
        if not isinstance(text, str) or len(text) > MAX_LENGTH or not text.isprintable():
            raise ScimError(400, "A text is too long, or not printable.", "invalidValue")
    if not name.strip():
        raise ScimError(400, "displayName is missing.", "invalidValue")
    others = ProvisionedGroup.objects.exclude(pk=group.pk)
    if others.filter(name__iexact=name).exists():
        raise ScimError(409, "There is a group with this name.", "uniqueness")
    group.name, group.external_id = name, external_id


def _people(value: Any) -> set[int]:
    """The ids of members. Raises `ScimError` for one that is nobody's."""
    items = value if isinstance(value, list) else [value]
    texts = {str(lowered(item).get("value", "")) for item in items}
    ids = {int(text) for text in texts if re.fullmatch(r"[0-9]{1,18}", text)}
    people = User.objects.filter(service_team=None)
    found = {pk for pk in people.in_bulk([*ids]) if pk in ids}
    if len(found) != len(texts):
        raise ScimError(400, "A member is unknown.", "invalidValue")
    return found


def _set_members(group: ProvisionedGroup, people: set[int]) -> None:
    before = {*group.members.values_list("pk", flat=True)}
    if not before ^ people:
        return
    group.members.set(people)
    for user in User.objects.filter(pk__in=before ^ people).order_by("pk"):
        memberships.apply(user)
