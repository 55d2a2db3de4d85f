"""Dispatch: Django views for the declared operations, and every error as a problem response."""

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.template.loader import get_template
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt

from keyportal.api.framework import parsing
from keyportal.api.framework.authentication import authenticate
from keyportal.api.framework.operations import Operation
from keyportal.api.framework.parsing import MAX_BODY_BYTES
from keyportal.api.framework.problems import (
    BY_STATUS,
    CONTENT_TYPE,
    BadRequest,
    HTTPSRequired,
    InternalError,
    MethodNotAllowed,
    NotFound,
    Problem,
    Unavailable,
)
from keyportal.database import outage
from keyportal.http.buffering import RequestBuffer
from keyportal.http.requests import new_request_id
from keyportal.http.types import ASGIApp, Headers

JSON = "application/json"
View = Callable[..., HttpResponse]
logger = logging.getLogger(__name__)


def api_view(operations: Mapping[str, Operation]) -> View:
    """The view of one path. `operations` maps each method to its operation."""

    def view(request: HttpRequest, **parameters: str) -> HttpResponse:
        method = "GET" if request.method == "HEAD" else str(request.method)
        operation = operations.get(method)
        if operation is None:
            raise MethodNotAllowed(", ".join(sorted(operations)))
        parsing.require_content_length(request)
        result = operation.execute(request, authenticate(request), **parameters)
        return _response(operation.status, result)

    return with_problems(view)


def _response(status: int, result: Any) -> HttpResponse:
    if status == 204:
        response = HttpResponse(status=204)
        del response["Content-Type"]  # Django's is HTML.
        return response
    return HttpResponse(parsing.encode(result), status=status, content_type=JSON)


def with_problems(view: View) -> View:
    """Wrap a view of the API: every error becomes a problem response.

    No sign-in and no CSRF token is needed: the API ignores sessions, and another site's form can't
    send the `Authorization` header.
    """

    def wrapped(request: HttpRequest, **parameters: str) -> HttpResponse:
        request_id = new_request_id()
        try:
            if settings.IS_HTTPS and not request.is_secure():
                raise HTTPSRequired
            response = view(request, **parameters)
        except Problem as problem:
            response = problem.response(request_id)
        except SuspiciousOperation:
            # Such as more parameters than Django reads: a client error, not ours.
            response = BadRequest().response(request_id)
        except Exception as error:
            response = _problem_of(error, request_id).response(request_id)
        return _with_common_headers(request, response, request_id)

    return csrf_exempt(login_not_required(wrapped))


def _problem_of(error: Exception, request_id: str) -> Problem:
    """Log an unexpected error, and return its problem."""
    if outage.is_outage(error):
        outage.outage_log.begin(error)
        return Unavailable()
    if isinstance(error, OperationalError | InterfaceError):
        logger.error("Request %s: the database is unavailable: %s", request_id, error)
        return Unavailable()
    logger.error("Request %s failed.", request_id, exc_info=error)
    return InternalError()


def _with_common_headers(
    request: HttpRequest, response: HttpResponse, request_id: str
) -> HttpResponse:
    response["X-Request-Id"] = request_id
    response["Cache-Control"] = "no-store"
    if request.method == "HEAD":
        response.content = b""
    return response


def _not_found(_: HttpRequest) -> HttpResponse:
    raise NotFound(
        f"There is no such path. {settings.BASE_PATH}/api/v1/openapi.json lists all paths. For "
        f"calls to models, the base URL is {settings.PUBLIC_URL}/v1."
    )


not_found = with_problems(_not_found)


# Django's error handlers: for errors outside views, such as a wrong host. Pages get Django's own.


def _is_for_api(request: HttpRequest) -> bool:
    return request.path.startswith(f"{settings.BASE_PATH}/api/")


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if not _is_for_api(request):
        return defaults.bad_request(request, exception)
    detail = "This server does not accept that host name." if _is_disallowed_host(exception) else ""
    return _problem_response(request, BadRequest(detail))


def server_error(request: HttpRequest) -> HttpResponseBase:
    """503 while the database is unavailable, else 500. Django calls it while it handles the
    error."""
    is_outage = outage.is_outage(sys.exception())
    if _is_for_api(request):
        return _problem_response(request, Unavailable() if is_outage else InternalError())
    if is_outage:
        page = get_template("503.html").render()
        return HttpResponse(page, status=503, headers={"Retry-After": outage.RETRY_SECONDS})
    return defaults.server_error(request)


def _is_disallowed_host(exception: Exception) -> bool:
    return isinstance(exception, SuspiciousOperation) and "HTTP_HOST" in str(exception)


def _problem_response(request: HttpRequest, problem: Problem) -> HttpResponse:
    request_id = new_request_id()
    return _with_common_headers(request, problem.response(request_id), request_id)


MAX_CONCURRENT_BODIES = 4
_DETAILS = {
    408: "The body took too long to arrive.",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes, or its length is not declared.",
    503: "Too many requests at the same time. Try again shortly.",
}


def buffered_api(app: ASGIApp) -> RequestBuffer:
    """`app` behind a buffer that reads request bodies before a thread of Django is used."""
    return RequestBuffer(
        app,
        max_bytes=MAX_BODY_BYTES,
        max_concurrent=MAX_CONCURRENT_BODIES,
        render_error=render_problem,
    )


def render_problem(status: int, _: str) -> tuple[Headers, bytes]:
    """Headers and body of a problem response, for errors outside Django."""
    request_id = new_request_id()
    problem = BY_STATUS[status](_DETAILS[status])
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    return headers, problem.body(request_id)
