"""Failures of model servers, and our own."""

from keyportal.gateway.errors.base import NO_RETRY, GatewayError
from keyportal.http.types import Headers


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
    cause = ""
    """For the log. It may contain the server's address."""


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


class TooManyLargeBodies(Unavailable):
    code = "overloaded"
    message = "Too many large request bodies at once. Try again shortly."

    @property
    def headers(self) -> Headers:
        return [(b"retry-after", b"5")]


class DiskFull(TooManyLargeBodies):
    message = "The server has no room on its disk for the request's body. Try again later."


class ShuttingDown(Unavailable):
    code = "shutting_down"
    message = "The server is being restarted. Send the request again."


class UpstreamTimedOut(GatewayError):
    status = 504
    type = "server_error"
    code = "upstream_timeout"
    message = "The model server took too long to answer."
    cause = ""
    """For the log. It may contain the server's address."""


class UpstreamConnectTimeout(UpstreamTimedOut):
    message = "The model server took too long to take the connection."
