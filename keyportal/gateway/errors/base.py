"""The base of all errors, and their form."""

from typing import ClassVar

import msgspec

from keyportal.http.types import Headers

# The SDKs of OpenAI and Anthropic obey this header. Without it, Claude Code repeats a call with a
# wrong key eleven times, and says nothing for three minutes.
NO_RETRY = (b"x-should-retry", b"false")
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
