"""Parsing of query and body into declared types, with a pointer to each invalid field."""

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
_VALIDATION_ERROR = re.compile(r"(?P<message>.*) - at `(?P<path>[^`]*)`", re.DOTALL)
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_PATH_STEP = re.compile(r"\.([^.\[\]]+)|\[([^\]]*)\]")
_JSON_CONTENT_TYPE = re.compile(r"application/json *(; *charset=\"?utf-8\"?)? *", re.IGNORECASE)


class NoQuery(Struct, forbid_unknown_fields=True):
    """The query of an operation without query parameters."""


def parse_body(request: HttpRequest, kind: Any) -> Any:
    """Raises `UnsupportedMediaType`, `TooLarge`, `BadRequest` if it is not JSON, or `Invalid`."""
    if not _JSON_CONTENT_TYPE.fullmatch(request.headers.get("Content-Type", "")):
        raise UnsupportedMediaType
    require_content_length(request)
    try:
        return msgspec.json.decode(request.body, type=kind)
    except msgspec.ValidationError as error:
        raise Invalid(errors=[_field_error(str(error))]) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Python's message may quote the body, which can hold a secret.
        raise BadRequest("The body is not valid JSON in UTF-8.") from None


def require_content_length(request: HttpRequest) -> None:
    """Check the declared length before the body is read. Raises `TooLarge`."""
    length = request.META.get("CONTENT_LENGTH") or "0"
    # "²", which is a digit to Python, or thousands of digits would make `int` fail.
    if not (length.isascii() and length.isdigit() and len(length) <= 10):
        raise TooLarge("The length of the body is not declared.")
    if int(length) > MAX_BODY_BYTES:
        raise TooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes.")


def parse_query(request: HttpRequest, kind: type[T]) -> T:
    """Raises `Invalid`."""
    parameters = {}
    for name, values in request.GET.lists():
        if len(values) > 1:
            error = FieldError("Send this parameter only once.", parameter=name[:100])
            raise Invalid(errors=[error])
        parameters[name] = values[0]
    try:
        return msgspec.convert(parameters, kind, strict=False)
    except msgspec.ValidationError as validation_error:
        error = _field_error(str(validation_error))
        parameter = error.pointer.removeprefix("/")
        raise Invalid(errors=[FieldError(error.detail, parameter=parameter)]) from None


def encode(result: Any) -> bytes:
    return msgspec.json.encode(result)


def _field_error(message: str) -> FieldError:
    """From msgspec's message, such as `Expected ... - at `$.limits.tokens_per_day``."""
    match = _VALIDATION_ERROR.fullmatch(message)
    message, path = (match["message"], match["path"]) if match else (message, "$")
    pointer = "".join(f"/{name or index}" for name, index in _PATH_STEP.findall(path))
    if unknown := _UNKNOWN_FIELD.fullmatch(message):
        return FieldError("There is no such field.", pointer=f"{pointer}/{unknown['name'][:100]}")
    return FieldError(f"{message}.", pointer=pointer)
