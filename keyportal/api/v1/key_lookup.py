"""Looking up a key, checking that the caller may change it, and turning errors into problems."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any

from django.core.exceptions import PermissionDenied, ValidationError
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
from keyportal.database.clock import database_now
from keyportal.keys.changes import EDITABLE
from keyportal.keys.exceptions import (
    AlreadyRotating,
    LeakNotAccepted,
    ManagedByAdmin,
    NameTaken,
    NotAMember,
    PolicyViolation,
)
from keyportal.keys.keystring import require_no_key
from keyportal.keys.limits import AboveCeiling
from keyportal.keys.models import ApiKey, lock_key
from keyportal.keys.rules.validators import normalize_detail, require_printable
from keyportal.teams.access import HasOwner, require_change
from keyportal.teams.dates import parse_end
from keyportal.teams.models import Membership, User

MAX_YEAR = 2200  # Conversions between time zones overflow near `datetime.max`.


def get_key(caller: Caller, public_id: str) -> ApiKey:
    """A key of the caller's team. Raises `NotFound`, also for a key of another team."""
    keys = ApiKey.objects.for_team(caller.team).for_display().select_related("team")
    key = keys.filter(public_id=public_id).first()
    if key is None:
        raise NotFound
    return key


def get_member(caller: Caller, username: str) -> User:
    """Raises `NotAMember`; a user of another team and an unknown name give the same error."""
    member = User.objects.filter(username=username, memberships__team=caller.team).first()
    if member is None:
        raise NotAMember(username)
    return member


@contextmanager
def locked_key(
    caller: Caller,
    public_id: str,
    *,
    right: Callable[[Membership, HasOwner], None] = require_change,
) -> Iterator[ApiKey]:
    """The key with its current values, locked until the transaction ends.

    Raises `NotFound`, `WeakRole` if the caller may not change it, and the problems of
    `rules_as_problems`.
    """
    unlocked_key = get_key(caller, public_id)
    with rules_as_problems():
        try:
            with lock_key(unlocked_key, actor=caller.user, right=right) as key:
                yield key
        except ApiKey.DoesNotExist:
            raise NotFound from None
        except PermissionDenied:
            raise WeakRole(
                "The owner of this management key may only change their own API keys. This one "
                "belongs to another member."
            ) from None


@contextmanager
def rules_as_problems() -> Iterator[None]:
    """Raises a `Problem` in place of an exception of the rules for keys."""
    try:
        yield
    except NameTaken:
        raise problems.NameTaken from None
    except NotAMember as refusal:
        raise Invalid.at("/owner", str(refusal)) from None
    except ManagedByAdmin as refusal:
        raise WeakRole(str(refusal)) from None
    except (AlreadyRotating, LeakNotAccepted) as refusal:
        raise Conflict(str(refusal)) from None
    except PolicyViolation as refusal:
        errors = [FieldError(violation) for violation in refusal.violations]
        raise PolicyForbids(str(refusal), errors=errors) from None
    except AboveCeiling as refusal:
        raise Invalid(
            str(refusal),
            errors=[
                FieldError(message, pointer=f"/limits/{name}")
                for name, message in refusal.errors.items()
            ],
        ) from None


def validated(body: NewKey | KeyChanges) -> dict[str, Any]:
    """The columns of a key in the body, normalized; without those left out.

    Raises `Invalid` for what JSON Schema can't express.
    """
    errors: list[FieldError] = []
    columns = (*EDITABLE, "expires_at")
    values = {name: getattr(body, name) for name in columns if getattr(body, name) is not UNSET}
    for name, value in values.items():
        if isinstance(value, str):
            validators = ApiKey._meta.get_field(name).validators  # type: ignore[union-attr]  # it is a column
            errors += _field_errors(f"/{name}", value, partial(normalize_detail, name), *validators)
    if body.tags is not UNSET:
        for index, tag in enumerate(body.tags):
            errors += _field_errors(f"/tags/{index}", tag, require_printable, require_no_key)
    if body.expires_at is not None:
        errors += _field_errors("/expires_at", body.expires_at, _parse_expiry)
    if errors:
        raise Invalid(errors=errors)
    normalized = {name: normalize_detail(name, value) for name, value in values.items()}
    if isinstance(text := values.get("expires_at"), str):
        normalized["expires_at"] = _parse_expiry(text)
    return normalized


def _field_errors(pointer: str, value: Any, *validators: Any) -> Iterator[FieldError]:
    for validate in validators:
        try:
            if value is not UNSET:
                validate(value)
        except ValidationError as error:
            yield FieldError(" ".join(error.messages), pointer=pointer)


_RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:?\d\d))?", re.ASCII
)


def _parse_expiry(text: str) -> datetime:
    """Raises `ValidationError`, also for a time without a zone: the program may mean its own."""
    try:
        end = parse_end(text.upper()) if _RFC_3339.fullmatch(text) else None
    except ValueError:
        end = None
    if end is None:
        raise ValidationError("Send a date, or a time with its zone, as in RFC 3339.")
    if not 2000 <= end.year <= MAX_YEAR or end <= database_now():
        raise ValidationError(f"Choose a time in the future, before the year {MAX_YEAR}.")
    return end
