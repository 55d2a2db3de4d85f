"""Requests of a directory: its token, the JSON it sends, and errors as SCIM has them."""

import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.debug import sensitive_variables

from keyportal.api.framework import throttling
from keyportal.api.framework.dispatch import with_problems
from keyportal.audit.source import acting_via

CONTENT_TYPE = "application/scim+json"
ERROR_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:Error"
Handler = Callable[..., Any]


class ScimError(Exception):
    """An error response (RFC 7644, 3.12)."""

    def __init__(self, status: int, detail: str, scim_type: str = "") -> None:
        super().__init__(detail)
        self.status, self.detail, self.scim_type = status, detail, scim_type


def not_found() -> ScimError:
    return ScimError(404, "There is no such resource.")


def scim_view(**handlers: Handler) -> Callable[..., HttpResponse]:
    """The view of one path. `get`, `post` and so on return a status and a body.

    Without a token in the settings, there is no such path.
    """

    def view(request: HttpRequest, **parameters: str) -> HttpResponse:
        try:
            status, body = _run(request, handlers, parameters)
        except ScimError as error:
            return _error_response(error)
        return _response(status, body)

    return with_problems(view)


def _run(
    request: HttpRequest, handlers: Mapping[str, Handler], parameters: dict[str, str]
) -> tuple[int, Any]:
    if not settings.SCIM_TOKENS:
        raise not_found()
    _authenticate(request)
    # Attack: the cookie of a signed-in person, whose name would be in the audit.
    request.user = AnonymousUser()
    handler = handlers.get("get" if request.method == "HEAD" else str(request.method).lower())
    if handler is None:
        raise ScimError(405, "This method is not supported here.")
    with acting_via("SCIM"):
        try:
            with transaction.atomic():
                result: tuple[int, Any] = handler(request, **parameters)
                return result
        except ValidationError as error:
            raise ScimError(400, " ".join(error.messages), "invalidValue") from None
        except IntegrityError:
            raise ScimError(409, "Another request has just made this.", "uniqueness") from None


@sensitive_variables()
def _authenticate(request: HttpRequest) -> None:
    """Attack: somebody guesses the token. Wrong ones are counted for each network."""
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    given = token.strip().encode()
    matches = [hmac.compare_digest(given, known.encode()) for known in settings.SCIM_TOKENS]
    if kind.lower() == "bearer" and any(matches):
        return
    subject = throttling.address_subject(request.META.get("REMOTE_ADDR"))
    if throttling.count_request(subject, throttling.FAILURES_PER_MINUTE):
        raise ScimError(429, "Too many requests with a wrong token.")
    raise ScimError(401, "The bearer token is missing or wrong.")


def read_object(request: HttpRequest) -> dict[str, Any]:
    """The body, with the names of its attributes in lower case: SCIM ignores their case."""
    try:
        body = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, RecursionError):
        raise ScimError(400, "The body is not valid JSON.", "invalidSyntax") from None
    return lowered(body)


def lowered(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ScimError(400, "An object is expected here.", "invalidSyntax")
    return {str(name).lower(): item for name, item in value.items()}


def read_operations(request: HttpRequest) -> list[dict[str, Any]]:
    """Those of a PATCH (RFC 7644, 3.5.2). `op` is in lower case, because Entra sends `Replace`."""
    operations = read_object(request).get("operations")
    if not isinstance(operations, list) or len(operations) > 1000:
        raise ScimError(400, "Operations is not a list of at most 1000.", "invalidSyntax")
    read = [lowered(operation) for operation in operations]
    for operation in read:
        operation["op"] = str(operation.get("op", "")).lower()
        operation["path"] = str(operation.get("path") or "")
        if operation["op"] not in {"add", "replace", "remove"}:
            raise ScimError(400, "op is add, replace or remove.", "invalidSyntax")
    return read


def _response(status: int, body: Any) -> HttpResponse:
    content = b"" if status == 204 else json.dumps(body, default=str).encode()
    return HttpResponse(content, status=status, content_type=CONTENT_TYPE)


def _error_response(error: ScimError) -> HttpResponse:
    body = {"schemas": [ERROR_SCHEMA], "status": str(error.status), "detail": error.detail}
    if error.scim_type:
        body["scimType"] = error.scim_type
    response = _response(error.status, body)
    if error.status == 401:
        response["WWW-Authenticate"] = "Bearer"
    if error.status == 429:
        response["Retry-After"] = "60"
    return response
