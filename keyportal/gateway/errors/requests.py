"""Requests that can't be served as they are, whoever sends them."""

import re

from django.conf import settings

from keyportal.gateway.errors.base import GatewayError
from keyportal.http.requests import HTTPS_REQUIRED
from keyportal.http.types import Headers
from keyportal.keys.keystring import redact

_NAME = re.compile(r"[\w./:@+-]{1,200}", re.ASCII)


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


class ModelNotFound(GatewayError):
    status = 404
    code = "model_not_found"
    param = "model"

    def __init__(self, name: str = "") -> None:
        """`name` is what the caller sent, which the call's page then shows too.

        It is quoted only if it could be a name, so no text of a prompt, and without the secret of a
        key that was sent in its place.
        """
        quoted = f" {redact(name)}" if _NAME.fullmatch(name) else ""
        super().__init__(
            f"The model{quoted} does not exist, or your team may not call it. `GET /v1/models` "
            "lists what you can call."
        )


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
