"""Requests become values of declared types here, or are refused with a pointer to what is wrong."""

import re
from typing import Any, TypeVar

import msgspec
from django.http import HttpRequest
from msgspec import Struct

from keyportal.api.framework.problems import (
    BadRequest,
    FieldError,
    Invalid,
    TooLarge,
    UnsupportedMediaType,
)

MAX_BODY_BYTES = 64 * 1024
T = TypeVar("T")
_PLACE = re.compile(r"(?P<told>.*) - at `(?P<place>[^`]*)`", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\]]*)\]")
_JSON = re.compile(r"application/json *(; *charset=\"?utf-8\"?)? *", re.IGNORECASE)


class NoQuery(Struct, forbid_unknown_fields=True):
    """An operation without parameters in its query."""


def body(request: HttpRequest, kind: Any) -> Any:
    """Raises `UnsupportedMediaType`, `TooLarge`, `BadRequest` for what is no JSON, or `Invalid`."""
    if not _JSON.fullmatch(request.headers.get("Content-Type", "")):
        raise UnsupportedMediaType
    require_small(request)
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.ValidationError as error:
        raise Invalid(errors=[_in_body(str(error))]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # What Python says of it may quote it, and a body can hold anything.
        raise BadRequest("The body is not JSON in UTF-8.") from None


def require_small(request: HttpRequest) -> None:
    """By what the request says of itself, before any of it is read; and nobody may say nothing."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    # Neither "²", which is a digit to Python, nor thousands of digits make an error of ours.
    if not (length.isascii() and length.isdigit() and len(length) <= 10):
        raise TooLarge("The body does not say how large it is.")
    if int(length) > MAX_BODY_BYTES:
        raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")


def query(request: HttpRequest, kind: type[T]) -> T:
    given = {}
    for name, values in request.GET.lists():
        if len(values) > 1:
            raise Invalid(errors=[FieldError("Give this once.", parameter=name[:100])])
        given[name] = values[0]
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        found = _in_body(str(error))
        parameter = found.pointer.removeprefix("/")
        raise Invalid(errors=[FieldError(found.detail, parameter=parameter)]) from None


def encode(answer: Any) -> bytes:
    return msgspec.json.encode(answer)


def _in_body(told: str) -> FieldError:
    """msgspec says `Expected ... - at `$.limits.tokens_per_day`` and names an unknown field."""
    found = _PLACE.fullmatch(told)
    told, place = (found["told"], found["place"]) if found else (told, "$")
    pointer = "".join(f"/{name or index}" for name, index in _STEP.findall(place))
    if unknown := _UNKNOWN.fullmatch(told):
        return FieldError("There is no such field.", pointer=f"{pointer}/{unknown['name'][:100]}")
    return FieldError(f"{told}.", pointer=pointer)
