"""A person's attributes in the bodies of a directory, as Okta, Entra and others write them."""

import re
from typing import Any

from keyportal.api.models.provisioned import MAX_LENGTH
from keyportal.api.scim.requests import ScimError, lowered
from keyportal.keys.keystring import require_no_key

PREFIX = "urn:ietf:params:scim:schemas:core:2.0:user:"
EMAIL_PATH = re.compile(r'emails(\[type eq "work"\])?(\.value)?')
NAMES = {"name.givenname": "first_name", "name.familyname": "last_name"}


Changes = dict[str, Any]
"""Only what the directory said, by names of columns. Other attributes, as titles, are ignored."""


def changes_of(resource: dict[str, Any]) -> Changes:
    """From a resource, or the value of a PATCH, whose names are in lower case."""
    changes: Changes = {}
    for full_name, value in resource.items():
        name = full_name.removeprefix(PREFIX)
        if name == "name":
            parts = {f"name.{part}": text for part, text in lowered(value or {}).items()}
            changes |= changes_of(parts)
        elif name in NAMES:
            changes[NAMES[name]] = _text(value)[:150]
        elif name == "username":
            changes["user_name"] = _required(_text(value), "userName")
        elif name == "externalid":
            changes["external_id"] = _text(value)
        elif name == "active":
            changes["is_active"] = _boolean(value)
        elif EMAIL_PATH.fullmatch(name):
            changes["email"] = _email(value)
    return changes


def changes_of_operations(operations: list[dict[str, Any]]) -> Changes:
    changes: Changes = {}
    for operation in operations:
        path, value = operation["path"].lower(), operation.get("value")
        if operation["op"] == "remove":
            if path.removeprefix(PREFIX) in {"active", "username"}:
                raise ScimError(400, "This attribute is required.", "mutability")
            changes |= changes_of({path: ""} if path != "name" else dict.fromkeys(NAMES, ""))
        elif path:
            changes |= changes_of({path: value})
        else:
            changes |= changes_of(lowered(value))
    return changes


def _email(value: Any) -> str:
    """The primary one of several, else the one for work, else the first."""
    if not isinstance(value, list):
        return _text(value).strip().lower()
    items = [lowered(item) for item in value]
    items.sort(key=lambda item: (str(item.get("primary")) != "True", item.get("type") != "work"))
    return _text(items[0].get("value")).strip().lower() if items else ""


def _boolean(value: Any) -> bool:
    """Entra sends texts."""
    text = str(value).lower()
    if text not in {"true", "false"}:
        raise ScimError(400, "active is true or false.", "invalidValue")
    return text == "true"


def _text(value: Any) -> str:
    text = "" if value is None else value
    if not isinstance(text, str) or len(text) > MAX_LENGTH or not text.isprintable():
        raise ScimError(400, "A text is too long, or not printable.", "invalidValue")
    require_no_key(text)
    return text


def _required(text: str, name: str) -> str:
    if not text.strip():
        raise ScimError(400, f"{name} is missing.", "invalidValue")
    return text.strip()
