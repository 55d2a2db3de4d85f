"""The errors of the management API, as problem details (RFC 9457).

Problem
├── BadRequest             400  not JSON, or a malformed header
├── Unauthorized           401
│   ├── MissingCredentials      no bearer token at all
│   └── InvalidKey              malformed, unknown, deleted, expired, an API key, owner left
├── Forbidden              403
│   ├── MissingScope            the management key lacks the scope
│   ├── WeakRole                the owner's role does not allow it
│   └── BeyondBounds            the API key would have more than the management key may give
├── NotFound               404  does not exist, or belongs to another team
├── MethodNotAllowed       405
├── Slow                   408
├── Conflict               409  the current state does not allow it
│   └── NameTaken               another key of the team has the name, perhaps from a retry
├── TooLarge               413
├── UnsupportedMediaType   415
├── Invalid                422  invalid fields; `errors` point at them
│   └── PolicyForbids           violations of the team's policy
├── HTTPSRequired          426
├── TooManyRequests        429
├── InternalError          500
└── Unavailable            503  the database is unavailable, or too many requests wait
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, ClassVar

import msgspec
from django.http import HttpResponse
from msgspec import Meta, Struct

from keyportal.http.requests import HTTPS_REQUIRED
from keyportal.keys import keystring

CONTENT_TYPE = "application/problem+json"
REALM = 'Bearer realm="keyportal-management"'


class FieldError(Struct, omit_defaults=True):
    """One error and its place: a JSON pointer into the body, or the name of a parameter."""

    detail: str
    pointer: str = ""
    parameter: str = ""


class ProblemDetails(Struct, omit_defaults=True):
    """The body of every error response."""

    type: Annotated[str, Meta(description="A URN for the kind of problem. It never changes.")]
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] = []


class Problem(Exception):
    """An error response. `detail` is for the person who runs the calling program."""

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
        """The JSON body, with every key string redacted.

        A client may have put a key into the wrong field, and responses are stored in many logs.
        """
        details = ProblemDetails(
            type=self.urn(),
            title=self.title(),
            status=self.status,
            detail=str(self),
            request_id=request_id,
            errors=self.errors,
        )
        return keystring.redact(msgspec.json.encode(details).decode()).encode()

    def response(self, request_id: str) -> HttpResponse:
        body = self.body(request_id)
        return HttpResponse(
            body, status=self.status, content_type=CONTENT_TYPE, headers=self.headers
        )


class BadRequest(Problem):
    status = 400
    code = "bad-request"
    detail = "The request is malformed."


class Unauthorized(Problem):
    status = 401
    code = "unauthorized"


class MissingCredentials(Unauthorized):
    detail = "Send a management key as `Authorization: Bearer {MANAGEMENT_KEY}`."

    def __init__(self) -> None:
        super().__init__(headers={"WWW-Authenticate": REALM})


class InvalidKey(Unauthorized):
    """The same response for every kind of bad key.

    Attack: a caller with a stolen or guessed key learns from the error whether it once existed.
    """

    detail = "This is not a valid management key. Admins of a team create one in the portal."

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
            f"This management key does not have the scope {scope}.",
            headers={"WWW-Authenticate": challenge},
        )


class WeakRole(Forbidden):
    code = "weak-role"


class BeyondBounds(Forbidden):
    code = "beyond-bounds"
    detail = "The API key would be allowed more than this management key may give."


class NotFound(Problem):
    status = 404
    code = "not-found"
    detail = "This does not exist, or it belongs to another team."


class MethodNotAllowed(Problem):
    status = 405
    code = "method-not-allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This path only allows {allowed}.", headers={"Allow": allowed})


class SlowBody(Problem):
    status = 408
    code = "slow-body"


class Conflict(Problem):
    status = 409
    code = "conflict"


class NameTaken(Conflict):
    """Also the response to a repeated create whose first response was lost."""

    code = "name-taken"
    detail = (
        "The team already has an API key with this name. If an earlier request of yours created "
        "it, find it by its name: GET /api/v1/keys?name=NAME. Its secret was shown only once; "
        "rotate the key to get a new one."
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
    detail = "The request is not valid. `errors` says what is wrong and where."

    @classmethod
    def at(cls, pointer: str, detail: str) -> "Invalid":
        return cls(errors=[FieldError(detail, pointer=pointer)])


class PolicyForbids(Invalid):
    code = "policy"


class HTTPSRequired(Problem):
    """Plain HTTP is refused and not redirected.

    A client that follows redirects would keep sending its key unencrypted without noticing.
    """

    status = 426
    code = "https-required"
    detail = HTTPS_REQUIRED

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
    detail = "An internal error occurred. The operator can find it in the log by the request id."


class Unavailable(Problem):
    status = 503
    code = "unavailable"
    detail = "The service is unavailable at the moment. Try again shortly."

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
        SlowBody,
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
