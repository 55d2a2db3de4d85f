"""What stands in front of the management API: the portal's rules for bodies, with other numbers.

It has places of its own, so that programs that ask much keep no person waiting.
"""

from keyportal.api.problems import BY_STATUS, CONTENT_TYPE
from keyportal.api.reading import MAX_BODY_BYTES
from keyportal.http.buffering import Forecourt
from keyportal.http.requests import new_request_id
from keyportal.http.types import ASGIApp, Headers

AT_ONCE = 4
_TOLD = {
    408: "The body took too long to arrive.",
    413: f"The body is larger than {MAX_BODY_BYTES} bytes, or does not say how large it is.",
    503: "Too many requests at once. Try again shortly.",
}


def api_forecourt(app: ASGIApp) -> Forecourt:
    return Forecourt(app, largest=MAX_BODY_BYTES, at_once=AT_ONCE, refusal=as_problem)


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
