"""Which key is meant, whether the caller may change it, and how a refusal is told."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from django.core.exceptions import ValidationError
from django.utils import timezone
from msgspec import UNSET

from keyportal.api.framework import problems
from keyportal.api.framework.authentication import Caller
from keyportal.api.framework.problems import (
    Conflict,
    FieldError,
    Invalid,
    NotFound,
    PolicyForbids,
    WeakRole,
)
from keyportal.api.v1.schemas import KeyChanges, NewKey
from keyportal.keys.changes import locked
from keyportal.keys.exceptions import AlreadyRotating, Managed, NameTaken, NotAMember, PolicyBroken
from keyportal.keys.limits import AboveCeiling
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.validators import (
    plain_lines,
    read_tags,
    require_no_key,
    require_printable,
)
from keyportal.teams.access import may_change
from keyportal.teams.models import User

LAST_YEAR = 2200  # Beyond, arithmetic with time zones ends sooner or later.


def key_of(caller: Caller, public_id: str) -> ApiKey:
    """One of the caller's team. Raises `NotFound`, for those of other teams too."""
    keys = ApiKey.objects.of(caller.team).for_display().select_related("team")
    found = keys.filter(public_id=public_id).first()
    if found is None:
        raise NotFound
    return found


def member_named(caller: Caller, username: str) -> User:
    """Raises `NotAMember`, the same for somebody of another team as for nobody."""
    member = User.objects.filter(username=username, memberships__team=caller.team).first()
    if member is None:
        raise NotAMember(username)
    return member


@contextmanager
def changing(caller: Caller, public_id: str) -> Iterator[ApiKey]:
    """The key as it is now, which nobody else changes meanwhile.

    Raises `NotFound`, `WeakRole` where it belongs to somebody else, and what a refusal is told as.
    """
    found = key_of(caller, public_id)
    if not may_change(caller.membership, found):
        raise WeakRole(
            "The owner of this management key may change their own API keys; this one belongs "
            "to someone else."
        )
    with refusals():
        try:
            with locked(found) as key:
                yield key
        except ApiKey.DoesNotExist:
            raise NotFound from None


@contextmanager
def refusals() -> Iterator[None]:
    """What the rules of keys refuse, as problems."""
    try:
        yield
    except NameTaken:
        raise problems.NameTaken from None
    except NotAMember as refusal:
        raise Invalid.at("/owner", str(refusal)) from None
    except Managed as refusal:
        raise WeakRole(str(refusal)) from None
    except AlreadyRotating as refusal:
        raise Conflict(str(refusal)) from None
    except PolicyBroken as refusal:
        errors = [FieldError(told) for told in refusal.breaches]
        raise PolicyForbids(str(refusal), errors=errors) from None
    except AboveCeiling as refusal:
        raise Invalid(
            str(refusal),
            errors=[
                FieldError(told, pointer=f"/limits/{name}")
                for name, told in refusal.complaints.items()
            ],
        ) from None


def sound(asked: NewKey | KeyChanges) -> dict[str, Any]:
    """What is asked of name, description, tags and end, as it is kept.

    Raises `Invalid` for what no schema can say of them.
    """
    wrong = [
        *_wrong("/name", asked.name, require_printable, require_no_key),
        *_wrong("/description", asked.description, plain_lines, require_no_key),
    ]
    if asked.tags is not UNSET:
        for number, tag in enumerate(asked.tags):
            wrong += _wrong(f"/tags/{number}", tag, require_printable, require_no_key)
    if isinstance(asked.expires_at, datetime):
        wrong += _wrong("/expires_at", asked.expires_at, _require_future)
    if wrong:
        raise Invalid(errors=wrong)
    return {
        name: read(value)
        for name, read in _KEPT.items()
        if (value := getattr(asked, name)) is not UNSET
    }


def _as_given(value: Any) -> Any:
    return value


_KEPT: dict[str, Callable[[Any], Any]] = {
    "name": _as_given,
    "description": plain_lines,
    "tags": read_tags,
    "expires_at": _as_given,
}


def _wrong(pointer: str, value: Any, *rules: Any) -> Iterator[FieldError]:
    for rule in rules:
        try:
            if value is not UNSET:
                rule(value)
        except ValidationError as error:
            yield FieldError(" ".join(error.messages), pointer=pointer)


def _require_future(moment: datetime) -> None:
    if moment.year > LAST_YEAR or moment.year < 2000 or moment <= timezone.now():
        raise ValidationError(f"A time that is still to come, before {LAST_YEAR}.")
