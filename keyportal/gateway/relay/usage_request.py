"""Asking model servers for the usage of a stream, without breaking those that refuse to be asked.

Without `stream_options`, OpenAI's and most other servers don't report the usage of a stream. Some
servers answer 400 or 422 to this field.
"""

import logging
from collections.abc import Awaitable, Callable

from keyportal.catalog.circuit_breaker import breaker_for
from keyportal.catalog.snapshot import Target
from keyportal.gateway.errors import GatewayError
from keyportal.gateway.relay.answer import Answer
from keyportal.gateway.relay.json_body import CallRequest

logger = logging.getLogger(__name__)


class UsageAsker:
    """Sends a stream's request with `stream_options` of ours to servers that take them."""

    __slots__ = ("_request", "_send")

    def __init__(
        self,
        request: CallRequest,
        send: Callable[[Target, CallRequest], Awaitable[Answer]],
    ) -> None:
        """`request` asks for usage, and its caller did not."""
        self._request = request
        self._send = send

    def send(self, target: Target) -> Awaitable[Answer]:
        """Raises what `send` raises. What a server takes is known after its first good answer."""
        takes = breaker_for(target.fingerprint).takes_stream_options
        does_take = takes.get(target.model) if target.takes_stream_options else False
        if does_take:
            return self._send(target, self._request)
        if does_take is None:
            return self._find_out(target, takes)
        return self._send(target, self._request.without_usage_request())

    async def _find_out(self, target: Target, takes: dict[str, bool]) -> Answer:
        answer = await self._send(target, self._request)
        if answer.status not in {400, 422}:
            if answer.status < 400:
                takes[target.model] = True
            return answer
        try:
            return await self._ask_again(target, answer, takes)
        except BaseException:
            answer.close()
            raise

    async def _ask_again(self, target: Target, refusal: Answer, takes: dict[str, bool]) -> Answer:
        """Send the request once more, without our options. If it fails too, return `refusal`.

        Then the mistake was another one, and the caller should read the answer to all of it.
        """
        request = self._request.without_usage_request()
        if "stream_options" in request.fields:  # The caller's own, so they may be the mistake.
            return refusal
        try:
            answer = await self._send(target, request)
        except GatewayError:
            return refusal
        if answer.status >= 400:
            answer.close()
            return refusal
        takes[target.model] = False
        logger.warning(
            "%s refuses stream_options for %s: the usage of its streams is estimated.",
            target.name,
            target.model,
        )
        refusal.close()
        return answer
