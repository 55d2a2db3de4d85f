"""Calls of models: a body is read and checked, relayed, and its answer sent."""

import time
from functools import partial

from django.conf import settings

from keyportal.catalog.models import BUILT_IN_URL
from keyportal.catalog.snapshot import Target
from keyportal.gateway.access import find_model, require_endpoint
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.aliases import DEPLOYMENT, check_deployment
from keyportal.gateway.calls import Call
from keyportal.gateway.demo_model import app as demo_model
from keyportal.gateway.endpoints import Endpoint
from keyportal.gateway.errors import InvalidKey, PreviousResponseNotFound, ResponseNotFound
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.gateway.metering.estimates import MEDIA_TOKENS, prompt_tokens
from keyportal.gateway.relay.answer import Answer
from keyportal.gateway.relay.body_budget import BodyBudget, Reservation
from keyportal.gateway.relay.failover import UpstreamAttempts
from keyportal.gateway.relay.json_body import CallRequest, parse_call
from keyportal.gateway.relay.relay import Relay, RelayRequest
from keyportal.gateway.relay.request_body import MAX_BODY_SECONDS, read_body
from keyportal.gateway.relay.sending import send_first_answer
from keyportal.gateway.relay.stored_body import MemoryBody, whole
from keyportal.gateway.relay.upload import Upload
from keyportal.gateway.relay.usage_request import UsageAsker
from keyportal.gateway.stored_responses import Maker, StoredResponses
from keyportal.http.turns import Pace, Turns
from keyportal.http.types import Headers, Receive, Scope, Send

SLOW_BODY_SECONDS = 1.0


class ModelCalls:
    """Serves the endpoints in the table. One per worker."""

    def __init__(
        self,
        admission: Admission,
        relay: Relay,
        stored_responses: StoredResponses,
        turns: Turns,
    ) -> None:
        self._admission = admission
        self._relay = relay
        self._stored_responses = stored_responses
        self.body_budget = BodyBudget(settings.BODY_MEMORY)
        self.disk_budget = BodyBudget(settings.BODY_DISK)
        self._turns = turns

    async def serve(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one call, and send its answer. Raises a `GatewayError` if that fails."""
        call: Call = scope["keyportal.call"]
        call.endpoint = endpoint.path
        require_endpoint(endpoint.kind, call.verdict)
        try:
            request = await self._read(endpoint, scope, receive)
        except BaseException:
            _release(call)
            raise
        # A small body takes no memory that was reserved, and no file.
        is_kept = call.reservation is not None or isinstance(request, Upload)
        try:
            if DEPLOYMENT in scope:
                check_deployment(scope, request.model)
            targets = None
            if endpoint.may_be_stored and isinstance(request, CallRequest):
                targets = await self._previous_targets(request, call.verdict)
            attempts = self._upstream_attempts(request, endpoint, call, scope["headers"], targets)
            # Attack: a server begins an endless answer to each of many large bodies, and reads
            # none of them. So what is still being sent is still counted.
            on_answer = partial(request.close, partial(_release, call)) if is_kept else _do_nothing
            await send_first_answer(attempts, scope, receive, send, on_answer)
        finally:
            if is_kept:
                request.close()
                _release(call)

    async def _previous_targets(
        self, request: CallRequest, verdict: Verdict
    ) -> tuple[Target, ...] | None:
        """The routes to the model server that stores the previous answer; None without one.

        Raises `BadRequest`, `PreviousResponseNotFound`, and what `find_callable` raises.
        """
        request.check_stored_answer()
        if not (response_id := request.previous_response_id):
            return None
        models = self._admission.catalog.models
        try:
            maker = await self._stored_responses.find_callable(models, response_id, verdict)
            return maker.targets(find_model(models, request.model, verdict).targets)
        except ResponseNotFound:
            raise PreviousResponseNotFound from None

    async def _read(
        self, endpoint: Endpoint, scope: Scope, receive: Receive
    ) -> CallRequest | Upload:
        """Read the whole body. Check the key again if that took longer than SLOW_BODY_SECONDS."""
        call: Call = scope["keyportal.call"]
        began = time.monotonic()
        call.body_deadline = began + MAX_BODY_SECONDS
        turns = self._turns.of(call.verdict.team_slug, call.verdict.public_id)
        body: Upload | bytes | bytearray
        if endpoint.takes_form:
            reserve = partial(self._reserve, self.disk_budget, call)
            body = await Upload.read(scope, receive, reserve, turns)
        else:
            reserve = partial(self._reserve, self.body_budget, call)
            body = await read_body(scope, receive, reserve, turns)
        call.body_deadline = 0.0
        if time.monotonic() - began > SLOW_BODY_SECONDS:
            try:
                await self._recheck_key(call)
            except BaseException:
                if isinstance(body, Upload):
                    body.close()
                raise
        if isinstance(body, Upload):
            if call.reservation is not None:
                call.reservation.settle(call.reservation.size)
            return body
        request = parse_call(body, scope.get(DEPLOYMENT, ""))
        return request if isinstance(body, bytes) else await self._store(request, body, call, turns)

    @staticmethod
    async def _reserve(budget: BodyBudget, call: Call, size: int) -> None:
        if call.reservation is None:
            call.reservation = _reservation(budget, call)
        await call.reservation.grow(size)

    async def _store(
        self, request: CallRequest, body: bytearray, call: Call, turns: Turns
    ) -> CallRequest:
        """Keep a large body in memory if there is enough of it, or else on disk."""
        reservation = call.reservation
        assert reservation is not None  # noqa: S101 - `read_body` reserves memory for each of them
        reservation.settle(len(body))
        await Pace(turns).after(len(body))
        stored = request.stored(turns, prompt_tokens(body))
        if reservation.may_stay() or not isinstance(stored.rest, MemoryBody):
            return stored
        try:
            # Released with the call, also if that ends while it waits for its room.
            call.reservation = on_disk = _reservation(self.disk_budget, call)
            await on_disk.grow(len(body))
            on_disk.settle(len(body))
            return stored._replace(rest=await stored.rest.to_disk())
        finally:
            reservation.release()

    async def _recheck_key(self, call: Call) -> None:
        """Raises `InvalidKey` if the key was deleted while the request's body arrived."""
        if not await self._admission.judge(call.digest):
            raise InvalidKey

    def _upstream_attempts(
        self,
        request: CallRequest | Upload,
        endpoint: Endpoint,
        call: Call,
        headers: Headers,
        targets: tuple[Target, ...] | None,
    ) -> UpstreamAttempts:
        served = find_model(self._admission.catalog.models, request.model, call.verdict)
        is_stored = (
            endpoint.may_be_stored and isinstance(request, CallRequest) and request.is_stored
        )
        call.model, call.model_headers = served.name, served.headers
        asks_usage = endpoint.takes_stream_options and request.request_usage()
        relay_request = RelayRequest(endpoint, headers, call.request_id, request.content_type)

        async def send_to(target: Target, sent: CallRequest | Upload = request) -> Answer:
            body = sent.body_for(target.model)
            call.tokens.expect_answer(
                _prompt_estimate(endpoint, sent, body),
                does_generate=endpoint.does_generate,
                makes_images=endpoint.makes_images,
                is_usage_hidden=asks_usage and sent is request,
            )
            call.is_kept_alive = target.sends_keepalive
            if target.base_url == BUILT_IN_URL:
                is_form = isinstance(sent, Upload)
                return demo_model.answer(endpoint.path, body if is_form else await whole(body))
            answer = await self._relay.send(target, relay_request, body, call.tokens.prompt_sent)
            if answer.status >= 400:
                call.tokens.prompt_refused()
            if is_stored:
                maker = Maker(call.model, target.upstream_id)
                return await self._stored_responses.watch(answer, call.verdict.team_slug, maker)
            return answer

        if not isinstance(request, CallRequest):
            return UpstreamAttempts(targets or served.targets, send_to, call.attempts)
        return UpstreamAttempts(
            targets or served.targets,
            UsageAsker(request, send_to).send if asks_usage else send_to,
            call.attempts,
            names_stored_answer="previous_response_id" in request.fields,
        )


def _do_nothing() -> None:
    """There is nothing to forget."""


def _reservation(budget: BodyBudget, call: Call) -> Reservation:
    return Reservation(budget, call.verdict.public_id, call.verdict.team_slug, call.end)


def _release(call: Call) -> None:
    if call.reservation is not None:
        call.reservation.release()


def _prompt_estimate(
    endpoint: Endpoint, request: CallRequest | Upload, body: bytes | StreamedBody
) -> int:
    """The tokens of the prompt if the model server doesn't report them."""
    if isinstance(request, Upload):
        return MEDIA_TOKENS  # A form with a file in it.
    if not endpoint.has_prompt:
        return 0
    return prompt_tokens(body) if isinstance(body, bytes) else request.rest_tokens
