"""The gateway's errors, and their responses in OpenAI's and Anthropic's formats.

    GatewayError
    ├── BadRequest                 400  the body is no JSON object, or names no model
    │   ├── MissingModel
    │   └── MalformedRequest            not valid HTTP
    ├── Unauthorized               401
    │   ├── MissingCredentials          no bearer token at all
    │   ├── CredentialsDiffer           two keys in one request, or a header twice
    │   ├── PlaceholderKey              the text of an example where a key belongs
    │   └── InvalidKey                  malformed, unknown, deleted, expired, disabled, owner left
    ├── PermissionDenied           403  the key is valid, but not for this
    │   ├── ModelNotAllowed             it may call other models
    │   ├── EndpointNotAllowed
    │   └── AddressNotAllowed           it may call from other networks
    ├── ModelNotFound              404
    ├── ResponseNotFound           404
    │   └── PreviousResponseNotFound
    ├── UnknownPath                404
    ├── MethodNotAllowed           405
    ├── SlowBody                   408
    ├── BodyTooLarge               413
    ├── AddressTooLong             414
    ├── UnsupportedMediaType       415
    │   └── UnsupportedEncoding         compressed in another way, or twice
    ├── HTTPSRequired              426
    ├── WebSocketRefused           426
    ├── TooManyRequests            429  a limit of the key or its team is reached
    │   ├── RateLimitExceeded           for less than a minute: the client may retry
    │   └── InsufficientQuota           for the day or the month
    ├── HeadersTooLarge            431
    ├── ClientDisconnected         499  never sent; it ends the call
    ├── EndedByAdmin               499  an admin ended the call
    ├── InternalError              500
    ├── UpstreamFailed             502  no connection, or it broke the protocol
    ├── UpstreamRefused            502  it refuses our credential, or lacks the model
    ├── CredentialUnreadable       502  its credential can't be decrypted
    ├── Unavailable                503
    │   ├── DatabaseUnavailable         without the database no request passes
    │   ├── Overloaded                  too many concurrent calls
    │   └── ShuttingDown
    └── UpstreamTimedOut           504
        └── UpstreamConnectTimeout      no connection in time, so nothing was sent

Each error response needs a new instance: one that is raised again and again collects tracebacks.
"""

from collections.abc import Sequence
from math import ceil
from typing import ClassVar

import msgspec
from django.conf import settings

from keyportal.http.requests import HTTPS_REQUIRED
from keyportal.http.types import Headers

REALM = 'Bearer realm="keyportal"'
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class GatewayError(Exception):
    """An error response. Its message contains no upstream address, credential or key string."""

    status: ClassVar[int]
    type: ClassVar[str] = "invalid_request_error"
    code: ClassVar[str | None] = None
    message: ClassVar[str]
    param: ClassVar[str | None] = None

    def __init__(self, message: str = "") -> None:
        super().__init__(message or self.message)

    @property
    def headers(self) -> Headers:
        return []

    def body(self, request_id: str = "", *, is_anthropic: bool = False) -> bytes:
        """Return the body in Anthropic's format, or in OpenAI's:

        `{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}`
        """
        if is_anthropic:
            return self._anthropic_body(request_id)
        return msgspec.json.encode(
            {
                "error": {
                    "message": str(self),
                    "type": self.type,
                    "param": self.param,
                    "code": self.code,
                }
            }
        )

    def _anthropic_body(self, request_id: str) -> bytes:
        """`{"type": "error", "error": {"type": ..., "message": ...}, "request_id": ...}`"""
        other = "invalid_request_error" if self.status < 500 else "api_error"
        error = {"type": _ANTHROPIC_TYPES.get(self.status, other), "message": str(self)}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})

    def event(self, request_id: str = "", *, is_anthropic: bool = False) -> bytes:
        """Return the error as the last event of a stream that has already started."""
        name = b"event: error\n" if is_anthropic else b""
        return name + b"data: " + self.body(request_id, is_anthropic=is_anthropic) + b"\n\n"


class BadRequest(GatewayError):
    status = 400
    message = "The request body must be a JSON object."
    code = "invalid_request"


class MissingModel(BadRequest):
    message = "You must say which model to call: `model` is missing or not a string."
    code = "missing_required_parameter"
    param = "model"


class MalformedRequest(BadRequest):
    message = "The server can't read this: it is not a valid HTTP/1.1 request."
    code = "malformed_request"


# The SDKs of OpenAI and Anthropic obey this header. Without it, Claude Code repeats a call with a
# wrong key eleven times, and says nothing for three minutes.
NO_RETRY = (b"x-should-retry", b"false")


class Unauthorized(GatewayError):
    """The challenge names an error only if credentials were sent (RFC 6750, 3)."""

    status = 401
    code = "invalid_api_key"
    challenge: ClassVar[str]

    @property
    def headers(self) -> Headers:
        return [(b"www-authenticate", self.challenge.encode()), NO_RETRY]


class MissingCredentials(Unauthorized):
    message = (
        "You didn't provide an API key. Send the header `Authorization: Bearer {API_KEY}`, or "
        "`x-api-key: {API_KEY}`."
    )
    challenge = REALM


class CredentialsDiffer(Unauthorized):
    """Found without a look at the database, so it tells nothing about either key."""

    challenge = f'{REALM}, error="invalid_request"'

    def __init__(self, names: Sequence[str]) -> None:
        """`names` are the headers, one of them twice if it was sent twice."""
        different = sorted(set(names))
        problem = (
            f"The headers {' and '.join(different)} have different API keys."
            if len(different) == len(names)
            else f"A header with an API key was sent twice: {', '.join(different)}."
        )
        super().__init__(
            f"{problem} Send one key. Anthropic's clients send two if both ANTHROPIC_API_KEY and "
            "ANTHROPIC_AUTH_TOKEN are set."
        )


class PlaceholderKey(Unauthorized):
    """Only for texts that can't be a key."""

    message = (
        "The API key is a placeholder such as {API_KEY}, from an example or an unset variable. Put "
        "your own key there; you can create one in the portal."
    )
    challenge = f'{REALM}, error="invalid_token"'


class InvalidKey(Unauthorized):
    """One response for every kind of invalid key. Attack: a thief learns why a key is refused."""

    message = "Incorrect API key provided. It may have been deleted; make a new one in the portal."
    challenge = f'{REALM}, error="invalid_token"'


class PermissionDenied(GatewayError):
    status = 403
    type = "permission_error"
    code = "permission_denied"
    message = "This API key may not do this."

    @property
    def headers(self) -> Headers:
        return [NO_RETRY]


class ModelNotAllowed(PermissionDenied):
    code = "model_not_allowed"
    param = "model"

    def __init__(self, model: str, allowed: str) -> None:
        super().__init__(f"This API key may not call the model {model}; it may call: {allowed}.")


class EndpointNotAllowed(PermissionDenied):
    code = "endpoint_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This API key may not use this endpoint. It is for: {allowed}.")


class AddressNotAllowed(PermissionDenied):
    """Names the client's address: behind a proxy that is not trusted, that of the proxy."""

    code = "address_not_allowed"

    def __init__(self, address: str | None) -> None:
        super().__init__(f"This API key may not be used from the address {address or 'unknown'}.")


class ModelNotFound(GatewayError):
    status = 404
    code = "model_not_found"
    message = (
        "The model does not exist, or your team may not call it. `GET /v1/models` lists what you "
        "can call."
    )
    param = "model"


class ResponseNotFound(GatewayError):
    """One response for all reasons. Attack: a caller tries which ids other teams have."""

    status = 404
    code = "response_not_found"
    message = (
        "There is no such response for your team. It may be too old, or its model server is no "
        "longer used."
    )


class PreviousResponseNotFound(ResponseNotFound):
    """The code is OpenAI's. A client that knows it sends the whole conversation again."""

    code = "previous_response_not_found"
    param = "previous_response_id"


class UnknownPath(GatewayError):
    status = 404
    code = "unknown_url"

    def __init__(self) -> None:
        url = settings.PUBLIC_URL or "http(s)://{this server}"
        super().__init__(
            f"There is nothing at this address. Set your client's base URL to {url}/v1, or to "
            f"{url} for a client of Anthropic or Azure."
        )


class MethodNotAllowed(GatewayError):
    status = 405
    code = "method_not_allowed"

    def __init__(self, allowed: str) -> None:
        super().__init__(f"This address takes {allowed} requests only.")
        self.allowed = allowed

    @property
    def headers(self) -> Headers:
        return [(b"allow", self.allowed.encode())]


class SlowBody(GatewayError):
    status = 408
    code = "request_timeout"
    message = "The request body took too long to arrive."


class BodyTooLarge(GatewayError):
    status = 413
    code = "request_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(f"The request body is larger than {limit} bytes.")


class AddressTooLong(GatewayError):
    status = 414
    code = "address_too_long"
    message = "The address of the request is too long."


class UnsupportedMediaType(GatewayError):
    status = 415
    code = "unsupported_media_type"

    def __init__(self, expected: bytes = b"application/json") -> None:
        super().__init__(f"Send the body as `Content-Type: {expected.decode()}`.")


class UnsupportedEncoding(UnsupportedMediaType):
    def __init__(self) -> None:
        GatewayError.__init__(
            self,
            "Send the body uncompressed, or compressed once, with a `Content-Encoding` of gzip, "
            "deflate or zstd.",
        )

    @property
    def headers(self) -> Headers:
        return [(b"accept-encoding", b"gzip, deflate, zstd")]  # RFC 7694


class HTTPSRequired(GatewayError):
    """Refused, not redirected: a client that follows would keep sending its key in clear."""

    status = 426
    code = "https_required"
    message = HTTPS_REQUIRED

    @property
    def headers(self) -> Headers:
        return [(b"upgrade", b"TLS/1.2, HTTP/1.1")]


class WebSocketRefused(GatewayError):
    """With this status Codex sends the same request by POST at once, and no other status does so.

    OpenAI's libraries raise an error that contains the status.
    """

    status = 426
    code = "websocket_not_supported"
    message = (
        "This server has no WebSockets. Send the request with POST, with `stream` if you like."
    )

    @property
    def headers(self) -> Headers:
        return [(b"upgrade", b"HTTP/1.1")]


class TooManyRequests(GatewayError):
    """The request is not counted. Headers tell what remains, and when the window ends."""

    status = 429

    def __init__(self, message: str, headers: Headers) -> None:
        super().__init__(message)
        self._headers = headers

    @property
    def headers(self) -> Headers:
        return self._headers


class RateLimitExceeded(TooManyRequests):
    code = "rate_limit_exceeded"

    def __init__(self, message: str, unit: str, seconds: float, headers: Headers) -> None:
        """`unit` is requests or tokens. OpenAI's clients wait for Retry-After and retry."""
        super().__init__(message, [(b"retry-after", str(ceil(seconds)).encode()), *headers])
        self.type = unit  # type: ignore[misc]  # OpenAI's API has the unit here


class InsufficientQuota(TooManyRequests):
    type = "insufficient_quota"
    code = "insufficient_quota"

    def __init__(self, message: str, headers: Headers) -> None:
        """Clients must not retry: OpenAI's clients obey only this header."""
        super().__init__(message, [NO_RETRY, *headers])


class HeadersTooLarge(GatewayError):
    status = 431
    code = "headers_too_large"
    message = "The request has too many headers, or one that is too long."


class ClientDisconnected(GatewayError):
    status = 499
    code = "client_gone"
    message = "The client closed the connection."


class EndedByAdmin(GatewayError):
    status = 499
    code = "ended_by_admin"
    message = "An admin of the team has ended this call."


class InternalError(GatewayError):
    status = 500
    type = "server_error"
    code = "internal_error"
    message = "Something failed on our side. The request id finds it in the operator's log."


class UpstreamFailed(GatewayError):
    status = 502
    type = "server_error"
    code = "upstream_failed"
    message = "The model server could not be reached, or broke off its answer."


class UpstreamRefused(GatewayError):
    """The operator's mistake. The server's own text is not passed on.

    Attack: the text may contain the credential. Clients that retry would get the same answer.
    """

    status = 502
    type = "server_error"
    code = "upstream_refused"
    message = "The model server refuses this gateway's credential. An operator must correct it."

    @property
    def headers(self) -> Headers:
        return [NO_RETRY]


class CredentialUnreadable(GatewayError):
    """The operator's mistake: KEYPORTAL_CREDENTIAL_KEYS lacks the key that encrypted it."""

    status = 502
    type = "server_error"
    code = "credential_unreadable"
    message = (
        "This gateway can't decrypt its own credential for the model server. An operator must "
        "correct it."
    )

    @property
    def headers(self) -> Headers:
        return [NO_RETRY]


class Unavailable(GatewayError):
    status = 503
    type = "server_error"

    @property
    def headers(self) -> Headers:
        return [(b"retry-after", b"1")]


class DatabaseUnavailable(Unavailable):
    code = "database_unavailable"
    message = "API keys can't be checked at the moment. Try again shortly."


class Overloaded(Unavailable):
    code = "overloaded"
    message = "Too many calls at once. Try again shortly."


class ShuttingDown(Unavailable):
    code = "shutting_down"
    message = "The server is being restarted. Send the request again."


class UpstreamTimedOut(GatewayError):
    status = 504
    type = "server_error"
    code = "upstream_timeout"
    message = "The model server took too long to answer."


class UpstreamConnectTimeout(UpstreamTimedOut):
    message = "The model server took too long to take the connection."
