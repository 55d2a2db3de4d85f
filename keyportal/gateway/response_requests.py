"""Requests for a stored answer by its id: to read it, delete it, or cancel it."""

import re
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlencode

from keyportal.catalog.snapshot import Target
from keyportal.gateway.access import require_endpoint
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.calls import Call
from keyportal.gateway.endpoints import CHAT, Endpoint
from keyportal.gateway.errors import BadRequest, MethodNotAllowed
from keyportal.gateway.metering.token_counter import Uncounted
from keyportal.gateway.relay.answer import Answer
from keyportal.gateway.relay.failover import UpstreamAttempts
from keyportal.gateway.relay.relay import Relay, RelayRequest
from keyportal.gateway.relay.response_id import ID
from keyportal.gateway.relay.sending import send_first_answer
from keyportal.gateway.stored_responses import StoredResponses
from keyportal.http.types import Headers, Receive, Scope, Send

PREFIX = "/v1/responses/"
_PATH = re.compile(rf"{PREFIX}(?P<id>{ID.pattern})(?P<action>/cancel|/input_items|)")
_METHODS = {"": ("GET", "HEAD", "DELETE"), "/input_items": ("GET", "HEAD"), "/cancel": ("POST",)}
_PARAMETERS = frozenset({"after", "before", "include", "include[]", "limit", "order"})


class ResponseRequest(NamedTuple):
    """A request for a stored answer."""

    method: str
    response_id: str
    action: str
    """What follows the id in the path, with a slash; or empty."""
    query: str
    """Only parameters that we know, without a question mark."""

    @classmethod
    def read(cls, method: str, path: str, query: bytes) -> Self | None:
        """None for another path. Raises `MethodNotAllowed`, or `BadRequest` for a stream."""
        match = _PATH.fullmatch(path)
        if match is None:
            return None
        allowed = _METHODS[match["action"]]
        if method not in allowed:
            raise MethodNotAllowed(", ".join(allowed))
        # The client gets no body for HEAD; the HTTP client that we use can't ask for that.
        method = "GET" if method == "HEAD" else method
        return cls(method, match["id"], match["action"], _known_parameters(query))

    def to_relay(self, headers: Headers, request_id: str) -> RelayRequest:
        """The request for the model server. Its path is made of checked parts."""
        endpoint = Endpoint(f"/responses/{self.response_id}{self.action}", CHAT)
        return RelayRequest(endpoint, headers, request_id, b"", self.method, self.query)


def _known_parameters(query: bytes) -> str:
    pairs = parse_qsl(query.decode("latin-1"))
    if ("stream", "true") in pairs:
        raise BadRequest(
            "Only answers in the background can be streamed later. Leave out `stream`."
        )
    return urlencode([pair for pair in pairs if pair[0] in _PARAMETERS])


class ResponseRequests:
    """Relays such requests to the model server that stores the answer. One per worker."""

    def __init__(
        self, admission: Admission, relay: Relay, stored_responses: StoredResponses
    ) -> None:
        self._admission = admission
        self._relay = relay
        self._stored_responses = stored_responses

    async def serve(
        self, wanted: ResponseRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Relay the request. It counts as a call, and the tokens of the answer don't."""
        call: Call = scope["keyportal.call"]
        call.endpoint = f"/responses/{{id}}{wanted.action}"
        call.tokens = Uncounted()
        require_endpoint(CHAT, call.verdict)
        models = self._admission.catalog.models
        maker = await self._stored_responses.find_callable(models, wanted.response_id, call.verdict)
        call.model = maker.model
        targets = maker.targets(models[maker.model].targets)
        request = wanted.to_relay(scope["headers"], call.request_id)

        async def send_to(target: Target) -> Answer:
            return await self._relay.send(target, request, b"")

        # One route is enough: they all lead to the same model server.
        attempts = UpstreamAttempts(targets[:1], send_to, call.attempts, names_stored_answer=True)
        await send_first_answer(attempts, scope, receive, send)
