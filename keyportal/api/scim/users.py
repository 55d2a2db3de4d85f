"""People: every change takes effect with the next request, of a session, a key or a stream."""

from typing import Any

from allauth.account.adapter import get_adapter
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest

from keyportal.api.models import ProvisionedUser
from keyportal.api.scim import lists, memberships
from keyportal.api.scim.attributes import Changes, changes_of, changes_of_operations
from keyportal.api.scim.requests import (
    ScimError,
    not_found,
    read_object,
    read_operations,
)
from keyportal.api.scim.resources import user_resource
from keyportal.teams.models import EMAIL_TAKEN, User
from keyportal.teams.sign_in.unproved import give_to_owner_of_address

DETAILS = ("first_name", "last_name", "email")


def _visible() -> QuerySet[User]:
    """People. Not those whom an operator deactivated and the directory never knew, or deleted."""
    people = User.objects.filter(service_team=None).select_related("provisioned")
    return people.filter(Q(is_active=True) | Q(provisioned__isnull=False))


def _named(value: str) -> Q:
    """The name in the directory. Somebody whom it does not know yet is found by their address."""
    known = Q(provisioned__user_name__iexact=value)
    is_unknown = Q(provisioned__isnull=True)
    return known | (is_unknown & (Q(email__iexact=value) | Q(username__iexact=value)))


FILTERS: lists.Filters = {
    "username": _named,
    "externalid": lambda value: Q(provisioned__external_id=value),
    "id": lists.by_id,
    "emails": lambda value: Q(email__iexact=value),
    "emails.value": lambda value: Q(email__iexact=value),
    'emails[type eq "work"].value': lambda value: Q(email__iexact=value),
}


def index(request: HttpRequest) -> tuple[int, Any]:
    return 200, lists.page_of(request, _visible(), FILTERS, user_resource)


def read(_: HttpRequest, user_id: str) -> tuple[int, Any]:
    user = _visible().filter(lists.by_id(user_id)).first()
    if user is None:
        raise not_found()
    return 200, user_resource(user)


def create(request: HttpRequest) -> tuple[int, Any]:
    changes = changes_of(read_object(request))
    name = changes.get("user_name", "")
    if not name:
        raise ScimError(400, "userName is missing.", "invalidValue")
    if "email" not in changes and "@" in name:
        changes["email"] = name.lower()
    if _visible().filter(_named(name) | _has_address(changes)).exists():
        raise ScimError(409, "There is a person with this name or address.", "uniqueness")
    # Somebody whom it deleted before comes back.
    user = User.objects.filter(service_team=None).filter(_has_address(changes)).first() or _new(
        name
    )
    changes.setdefault("is_active", True)
    _change(user, changes)
    return 201, user_resource(user)


def _has_address(changes: Changes) -> Q:
    address = changes.get("email", "")
    return Q(email__iexact=address) if address else Q(pk__in=[])


def _new(name: str) -> User:
    user = User(username=get_adapter().generate_unique_username([name.partition("@")[0], "user"]))
    user.set_unusable_password()
    user.full_clean()
    user.save()
    return user


def replace(request: HttpRequest, user_id: str) -> tuple[int, Any]:
    """What the body does not name stays as it is: directories send only what they know."""
    user = _locked(user_id)
    _change(user, changes_of(read_object(request)))
    return 200, user_resource(user)


def update(request: HttpRequest, user_id: str) -> tuple[int, Any]:
    user = _locked(user_id)
    _change(user, changes_of_operations(read_operations(request)))
    return 200, user_resource(user)


def delete(_: HttpRequest, user_id: str) -> tuple[int, Any]:
    """Deactivate for good. The row stays, because keys and the audit refer to it."""
    for user in _visible().filter(lists.by_id(user_id)):
        # Before the person is locked: whoever changes members locks the team first.
        user.provisioned_groups.clear()
        memberships.apply(user)
    user = _locked(user_id)
    _change(user, {"is_active": False})
    ProvisionedUser.objects.filter(user=user).delete()
    return 204, None


def _locked(user_id: str) -> User:
    user = _visible().filter(lists.by_id(user_id)).select_for_update(of=("self",)).first()
    if user is None:
        raise not_found()
    return user


def _change(user: User, changes: Changes) -> None:
    """Raises `ScimError`. The user is new, or locked."""
    values = {name: value for name, value in changes.items() if name in (*DETAILS, "is_active")}
    changed = [name for name, value in values.items() if getattr(user, name) != value]
    if user.is_staff or user.is_superuser:
        _protect_operator(user, changed)
    if "is_active" in changed:
        changed.append("is_off_by_directory")
        values["is_off_by_directory"] = _is_ended(user)
    for name in changed:
        setattr(user, name, values[name])
    try:
        user.full_clean(exclude=["password"])
    except ValidationError as error:
        if EMAIL_TAKEN in error.messages:
            raise ScimError(409, EMAIL_TAKEN, "uniqueness") from None
        raise
    if changed:
        user.save(update_fields=changed)
    give_to_owner_of_address(user)
    _remember(user, changes)


def _is_ended(user: User) -> bool:
    """Whether the change of `is_active` ends it. Raises `ScimError`.

    Attack: somebody whom an operator deactivated, such as with a stolen laptop, is still assigned
    in the directory, which sends them as active with each of its runs.
    """
    if not (user.is_active or user.is_off_by_directory):
        raise ScimError(403, "An operator deactivated this person, and only operators activate.")
    return user.is_active


def _protect_operator(user: User, changed: list[str]) -> None:
    """Attack: whoever has the token gives a superuser an address of their own, and resets the
    password; or shuts all operators out.
    """
    if {*changed} & {*DETAILS}:
        raise ScimError(403, "Names and addresses of operators are changed in /admin/ only.")
    others = User.objects.filter(is_superuser=True, is_active=True).exclude(pk=user.pk)
    if "is_active" in changed and not user.is_active:
        raise ScimError(403, "Operators are activated in /admin/ only.")
    is_ending = "is_active" in changed and user.is_active and user.is_superuser
    if is_ending and not others.select_for_update().exists():
        raise ScimError(409, "This is the last active superuser.")


def _remember(user: User, changes: Changes) -> None:
    provisioned, _ = ProvisionedUser.objects.get_or_create(
        user=user, defaults={"user_name": changes.get("user_name") or user.email or user.username}
    )
    for name in ("user_name", "external_id"):
        setattr(provisioned, name, changes.get(name, getattr(provisioned, name)))
    provisioned.save(update_fields=["user_name", "external_id"])
    user.provisioned = provisioned
