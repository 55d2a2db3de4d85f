"""The management API as Django sees it: an address is a view, and every answer is made here."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.views import defaults
from django.views.decorators.csrf import csrf_exempt

from keyportal.api.framework import parsing
from keyportal.api.framework.authentication import caller_of
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
from keyportal.http.buffering import RequestBuffer
from keyportal.http.requests import new_request_id
from keyportal.http.types import ASGIApp, Headers

PREFIX = "/api/"
JSON = "application/json"
View = Callable[..., HttpResponse]
logger = logging.getLogger(__name__)


def view_of(operations: Mapping[str, Operation]) -> View:
    """The view of one address; `operations` by method."""

    def respond(request: HttpRequest, **parts: str) -> HttpResponse:
        method = "GET" if request.method == "HEAD" else str(request.method)
        operation = operations.get(method)
        if operation is None:
            raise MethodNotAllowed(", ".join(sorted(operations)))
        parsing.require_small(request)
        answer = operation.carry_out(request, caller_of(request), **parts)
        return _response(operation.status, answer)

    return guarded(respond)


def _response(status: int, answer: Any) -> HttpResponse:
    if status == 204:
        response = HttpResponse(status=204)
        del response["Content-Type"]  # Django's is HTML.
        return response
    return HttpResponse(parsing.encode(answer), status=status, content_type=JSON)


def guarded(view: View) -> View:
    """No session opens this, and none is looked at; no form of another site can forge what needs a
    header that browsers never send by themselves. Whatever fails is told as a problem."""

    def guard(request: HttpRequest, **parts: str) -> HttpResponse:
        request_id = new_request_id()
        try:
            if settings.IS_HTTPS and not request.is_secure():
                raise HTTPSRequired
            response = view(request, **parts)
        except Problem as problem:
            response = problem.response(request_id)
        except SuspiciousOperation:
            # Such as more parameters than Django reads: a request's fault, and none of ours.
            response = BadRequest().response(request_id)
        except (OperationalError, InterfaceError) as error:
            logger.error("Request %s: the database can't be used: %s", request_id, error)
            response = Unavailable().response(request_id)
        except Exception:
            logger.exception("Request %s failed.", request_id)
            response = InternalError().response(request_id)
        return _finished(request, response, request_id)

    return csrf_exempt(login_not_required(guard))


def _finished(request: HttpRequest, response: HttpResponse, request_id: str) -> HttpResponse:
    response["X-Request-Id"] = request_id
    response["Cache-Control"] = "no-store"
    if request.method == "HEAD":
        response.content = b""
    return response


def _nowhere(_: HttpRequest) -> HttpResponse:
    raise NotFound("There is nothing at this address; /api/v1/openapi.json tells what there is.")


nowhere = guarded(_nowhere)


# What Django refuses before a view is found, such as a wrong host; pages get Django's own page.


def refused(request: HttpRequest, exception: Exception) -> HttpResponseBase:
    if not request.path.startswith(PREFIX):
        return defaults.bad_request(request, exception)
    told = "This server does not go by that name." if _is_of_host(exception) else ""
    return _as_problem(request, BadRequest(told))


def failed(request: HttpRequest) -> HttpResponseBase:
    if not request.path.startswith(PREFIX):
        return defaults.server_error(request)
    return _as_problem(request, InternalError())


def _is_of_host(exception: Exception) -> bool:
    return isinstance(exception, SuspiciousOperation) and "HTTP_HOST" in str(exception)


def _as_problem(request: HttpRequest, problem: Problem) -> HttpResponse:
    request_id = new_request_id()
    return _finished(request, problem.response(request_id), request_id)


MAX_CONCURRENT = 4
_TOLD = {
    408: "The body took too long to arrive.",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes, or does not say how large it is.",
    503: "Too many requests at once. Try again shortly.",
}


def buffered_api(app: ASGIApp) -> RequestBuffer:
    return RequestBuffer(
        app, max_bytes=MAX_BODY_BYTES, max_concurrent=MAX_CONCURRENT, render_error=as_problem
    )


def as_problem(status: int, _: str) -> tuple[Headers, bytes]:
    request_id = new_request_id()
    problem = BY_STATUS[status](_TOLD[status])
    headers = [
        (b"content-type", CONTENT_TYPE.encode()),
        (b"cache-control", b"no-store"),
        (b"x-request-id", request_id.encode()),
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    return headers, problem.body(request_id)
