"""People and groups as SCIM resources."""

from typing import Any

from django.conf import settings

from keyportal.api.models import ProvisionedGroup
from keyportal.teams.models import User

USER_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP_SCHEMA = "urn:ietf:params:scim:schemas:core:2.0:Group"


def url_of(kind: str, pk: object = "") -> str:
    path = f"{settings.PUBLIC_URL}/api/scim/v2/{kind}"
    return f"{path}/{pk}" if pk else path


def user_resource(user: User) -> dict[str, Any]:
    provisioned = getattr(user, "provisioned", None)
    resource: dict[str, Any] = {
        "schemas": [USER_SCHEMA],
        "id": str(user.pk),
        "userName": provisioned.user_name if provisioned else user.email or user.username,
        "name": {"givenName": user.first_name, "familyName": user.last_name},
        "displayName": user.get_full_name() or user.username,
        "emails": [{"value": user.email, "type": "work", "primary": True}] if user.email else [],
        "active": user.is_active,
        "meta": {
            "resourceType": "User",
            "created": user.date_joined.isoformat(),
            "location": url_of("Users", user.pk),
        },
    }
    if provisioned and provisioned.external_id:
        resource["externalId"] = provisioned.external_id
    return resource


def group_resource(group: ProvisionedGroup, *, with_members: bool = True) -> dict[str, Any]:
    resource: dict[str, Any] = {
        "schemas": [GROUP_SCHEMA],
        "id": str(group.pk),
        "displayName": group.name,
        "meta": {"resourceType": "Group", "location": url_of("Groups", group.pk)},
    }
    if group.external_id:
        resource["externalId"] = group.external_id
    if with_members:
        resource["members"] = [
            {"value": str(user.pk), "display": user.username, "$ref": url_of("Users", user.pk)}
            for user in sorted(group.members.all(), key=lambda user: user.pk)
        ]
    return resource
