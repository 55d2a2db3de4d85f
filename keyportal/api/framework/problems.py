"""What the management API refuses or fails with, as RFC 9457 has it; known only here.

Problem
├── BadRequest             400  no JSON, or a header that can't be read
├── Unauthorized           401
│   ├── MissingCredentials      no bearer token at all
│   └── InvalidKey              malformed, unknown, deleted, expired, of models, owner gone
├── Forbidden              403
│   ├── MissingScope            the management key was not made for this
│   ├── WeakRole                its owner may not do this
│   └── BeyondBounds            the key would have more than the management key may give
├── NotFound               404  not there, or not this team's
├── MethodNotAllowed       405
├── Slow                   408
├── Conflict               409  the state of things does not allow it
│   └── NameTaken               a key of the team has it, maybe from this very request
├── TooLarge               413
├── UnsupportedMediaType   415
├── Invalid                422  fields that can't be so; `errors` point at them
│   └── PolicyForbids           the team's policy, in its own words
├── HTTPSRequired          426
├── TooManyRequests        429
├── InternalError          500
└── Unavailable            503  the database can't be reached, or too many wait
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, ClassVar

import msgspec
from django.http import HttpResponse
from msgspec import Meta, Struct

from keyportal.keys import keystring

CONTENT_TYPE = "application/problem+json"
REALM = 'Bearer realm="keyportal-management"'


class FieldError(Struct, omit_defaults=True):
    """One thing that is wrong, and where: a JSON pointer into the body, or a parameter's name."""

    detail: str
    pointer: str = ""
    parameter: str = ""


class ProblemDetails(Struct, omit_defaults=True):
    """The body of every refusal."""

    type: Annotated[str, Meta(description="A URN that names the kind of problem; it stays.")]
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] = []


class Problem(Exception):
    """A refusal. `detail` is for whoever runs the program that called."""

    status: ClassVar[int]
    code: ClassVar[str]
    detail: ClassVar[str] = ""

    def __init__(
        self,
        detail: str = "",
        *,
        errors: Sequence[FieldError] = (),
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail or self.detail)
        self.errors = list(errors)
        self.headers = headers or {}

    @classmethod
    def title(cls) -> str:
        return HTTPStatus(cls.status).phrase

    @classmethod
    def urn(cls) -> str:
        return f"urn:keyportal:problem:{cls.code}"

    def body(self, request_id: str) -> bytes:
        """A key that stood in the wrong place is not told back: answers are kept in many logs."""
        told = ProblemDetails(
            type=self.urn(),
            title=self.title(),
            status=self.status,
            detail=str(self),
            request_id=request_id,
            errors=self.errors,
        )
        return keystring.redact(msgspec.json.encode(told).decode()).encode()

    def response(self, request_id: str) -> HttpResponse:
        body = self.body(request_id)
        return HttpResponse(
            body, status=self.status, content_type=CONTENT_TYPE, headers=self.headers
        )


class BadRequest(Problem):
    status = 400
    code = "bad-request"
    detail = "The request can't be read."


class Unauthorized(Problem):
    status = 401
    code = "unauthorized"


class MissingCredentials(Unauthorized):
    detail = "Send a management key as `Authorization: Bearer {MANAGEMENT_KEY}`."

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": REALM})


class InvalidKey(Unauthorized):
    """One answer for every kind of bad key, so that nobody learns which kind theirs is."""

    detail = "This is no management key that works. Admins of a team make one in the portal."

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": f'{REALM}, error="invalid_token"'})


class Forbidden(Problem):
    status = 403
    code = "forbidden"


class MissingScope(Forbidden):
    code = "missing-scope"

    def __init__(self, scope: str) -> None:
        challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
        super().__init__(
            f"This management key was made without the scope {scope}.",
            headers={"WWW-Authenticate": challenge},
        )


class WeakRole(Forbidden):
    code = "weak-role"


class BeyondBounds(Forbidden):
    code = "beyond-bounds"
    detail = "The key would be able to do more than this management key may give."


class NotFound(Problem):
    status = 404
    code = "not-found"
    detail = "There is nothing here, or it is not your team's."


class MethodNotAllowed(Problem):
    status = 405
    code = "method-not-allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This address takes {allowed} only.", headers={"Allow": allowed})


class Slow(Problem):
    status = 408
    code = "slow-body"


class Conflict(Problem):
    status = 409
    code = "conflict"


class NameTaken(Conflict):
    """Also the answer to a repeated create whose first answer was lost."""

    code = "name-taken"
    detail = (
        "A key with this name already exists in the team. If an earlier request of yours made it, "
        "read it by its name: GET /api/v1/keys?name=NAME. Its secret is shown only once: for a "
        "new one, rotate the key."
    )

    def __init__(self) -> None:
        super().__init__(errors=[FieldError("This name is taken.", pointer="/name")])


class TooLarge(Problem):
    status = 413
    code = "too-large"


class UnsupportedMediaType(Problem):
    status = 415
    code = "unsupported-media-type"
    detail = "Send the body as `Content-Type: application/json`, not compressed."


class Invalid(Problem):
    status = 422
    code = "invalid"
    detail = "Something in the request can't be so; `errors` tell what and where."

    @classmethod
    def at(cls, pointer: str, detail: str) -> "Invalid":
        return cls(errors=[FieldError(detail, pointer=pointer)])


class PolicyForbids(Invalid):
    code = "policy"


class HTTPSRequired(Problem):
    """Refused, not redirected: a client that follows would go on sending its key in the clear."""

    status = 426
    code = "https-required"
    detail = "Use https:// for this address. A key sent over plain HTTP should be replaced."

    def __init__(self) -> None:
        super().__init__(headers={"Upgrade": "TLS/1.2, HTTP/1.1"})


class TooManyRequests(Problem):
    status = 429
    code = "too-many-requests"

    def __init__(self, detail: str, seconds: int) -> None:
        super().__init__(detail, headers={"Retry-After": str(seconds)})


class InternalError(Problem):
    status = 500
    code = "internal-error"
    detail = "Something failed on our side. The request id finds it in the operator's log."


class Unavailable(Problem):
    status = 503
    code = "unavailable"
    detail = "The request can't be worked on at the moment. Try again shortly."

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, headers={"Retry-After": "1"})


BY_STATUS: dict[int, type[Problem]] = {
    kind.status: kind
    for kind in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        Slow,
        Conflict,
        TooLarge,
        UnsupportedMediaType,
        Invalid,
        HTTPSRequired,
        TooManyRequests,
        InternalError,
        Unavailable,
    )
}
