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
    │   ├── TooManyLargeBodies          no memory for the body, or no room in its part of the disk
    │   │   └── DiskFull                no room on disk at all
    │   └── ShuttingDown
    └── UpstreamTimedOut           504
        └── UpstreamConnectTimeout      no connection in time, so nothing was sent

Each error response needs a new instance: one that is raised again and again collects tracebacks.
"""

from keyportal.gateway.errors.base import GatewayError
from keyportal.gateway.errors.keys import (
    AddressNotAllowed,
    CredentialsDiffer,
    EndpointNotAllowed,
    InsufficientQuota,
    InvalidKey,
    MissingCredentials,
    ModelNotAllowed,
    PermissionDenied,
    PlaceholderKey,
    RateLimitExceeded,
    TooManyRequests,
    Unauthorized,
)
from keyportal.gateway.errors.requests import (
    AddressTooLong,
    BadRequest,
    BodyTooLarge,
    ClientDisconnected,
    EndedByAdmin,
    HeadersTooLarge,
    HTTPSRequired,
    MalformedRequest,
    MethodNotAllowed,
    MissingModel,
    ModelNotFound,
    PreviousResponseNotFound,
    ResponseNotFound,
    SlowBody,
    UnknownPath,
    UnsupportedEncoding,
    UnsupportedMediaType,
    WebSocketRefused,
)
from keyportal.gateway.errors.servers import (
    CredentialUnreadable,
    DatabaseUnavailable,
    DiskFull,
    InternalError,
    Overloaded,
    ShuttingDown,
    TooManyLargeBodies,
    Unavailable,
    UpstreamConnectTimeout,
    UpstreamFailed,
    UpstreamRefused,
    UpstreamTimedOut,
)

__all__ = [
    "AddressNotAllowed",
    "AddressTooLong",
    "BadRequest",
    "BodyTooLarge",
    "ClientDisconnected",
    "CredentialUnreadable",
    "CredentialsDiffer",
    "DatabaseUnavailable",
    "DiskFull",
    "EndedByAdmin",
    "EndpointNotAllowed",
    "GatewayError",
    "HTTPSRequired",
    "HeadersTooLarge",
    "InsufficientQuota",
    "InternalError",
    "InvalidKey",
    "MalformedRequest",
    "MethodNotAllowed",
    "MissingCredentials",
    "MissingModel",
    "ModelNotAllowed",
    "ModelNotFound",
    "Overloaded",
    "PermissionDenied",
    "PlaceholderKey",
    "PreviousResponseNotFound",
    "RateLimitExceeded",
    "ResponseNotFound",
    "ShuttingDown",
    "SlowBody",
    "TooManyLargeBodies",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnknownPath",
    "UnsupportedEncoding",
    "UnsupportedMediaType",
    "UpstreamConnectTimeout",
    "UpstreamFailed",
    "UpstreamRefused",
    "UpstreamTimedOut",
    "WebSocketRefused",
]
