"""Keys that are refused, and limits that are reached."""

from collections.abc import Sequence
from math import ceil
from typing import ClassVar

from keyportal.gateway.errors.base import NO_RETRY, GatewayError
from keyportal.http.types import Headers

REALM = 'Bearer realm="keyportal"'


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

    message = (
        "Incorrect API key provided. Send it whole, without quotes or spaces. It may also have "
        "been deleted; make a new one in the portal."
    )
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
