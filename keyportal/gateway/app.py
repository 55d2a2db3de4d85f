"""The gateway's ASGI application, without Django's request stack, which costs ten relayed calls."""

import asyncio
import secrets
import time
from collections.abc import Coroutine
from typing import Any

from django.conf import settings

from keyportal.catalog.models import BUILT_IN_URL
from keyportal.catalog.snapshot import CatalogEntry, Target
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.aliases import DEPLOYMENT, check_deployment, expects_anthropic
from keyportal.gateway.authentication import BearerAuthMiddleware
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.cors import CORSMiddleware
from keyportal.gateway.demo_model import app
from keyportal.gateway.endpoints import CHAT, ENDPOINTS, KEY_PATH, MODELS_PATH, Endpoint
from keyportal.gateway.error_middleware import ErrorMiddleware
from keyportal.gateway.errors import (
    EndpointNotAllowed,
    InvalidKey,
    MethodNotAllowed,
    ModelNotAllowed,
    ModelNotFound,
    PreviousResponseNotFound,
    ResponseNotFound,
    ShuttingDown,
    UnknownPath,
)
from keyportal.gateway.forward_auth.app import ForwardAuth, is_verification
from keyportal.gateway.http_client.messages import StreamedBody
from keyportal.gateway.introspection import Introspection
from keyportal.gateway.metering.estimates import MEDIA_TOKENS, prompt_tokens
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.retention import RetentionJob
from keyportal.gateway.metering.running_calls import RunningCallsReporter
from keyportal.gateway.metering.token_counter import Uncounted
from keyportal.gateway.metering.writer import Writer
from keyportal.gateway.model_list import (
    anthropic_model,
    anthropic_page,
    openai_list,
    openai_model,
)
from keyportal.gateway.relay.answer import Answer, json_answer
from keyportal.gateway.relay.failover import UpstreamAttempts
from keyportal.gateway.relay.json_body import CallRequest, parse_call
from keyportal.gateway.relay.relay import Relay, RelayRequest, send_response
from keyportal.gateway.relay.request_body import MAX_BODY_SECONDS, read_body
from keyportal.gateway.relay.upload import Upload
from keyportal.gateway.relay.usage_request import UsageAsker
from keyportal.gateway.session_watch import watch_forever
from keyportal.gateway.stored_responses import Maker, ResponseRequest, StoredResponses
from keyportal.http.types import ASGIApp, Headers, Receive, Scope, Send
from keyportal.keys.rules.permissions import Endpoints

SLOW_BODY_SECONDS = 1.0
ALL_ENDPOINTS = Endpoints.ALL.value


class Gateway:
    """Serves `/v1/` and `/auth/verify` in one worker. It starts without a database."""

    def __init__(self) -> None:
        self.active_calls = ActiveCalls()
        self.error_middleware = ErrorMiddleware(_not_started)
        self.forward_auth = ForwardAuth()
        self._v1: ASGIApp = self.error_middleware
        if settings.CORS_ORIGINS:
            self._v1 = CORSMiddleware(
                self.error_middleware, settings.CORS_ORIGINS, is_https=settings.IS_HTTPS
            )
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.forward_auth if is_verification(scope["path"]) else self._v1
        await app(scope, receive, send)

    async def start(self) -> None:
        """Create the worker's objects; after the fork, because workers can't share them."""
        worker = secrets.token_hex(8)
        self.admission = Admission(worker, asyncio.get_running_loop())
        self.writer = Writer()
        self.meter = Meter(worker, self.writer)
        self.relay = Relay()
        self.stored_responses = StoredResponses(self.writer)
        self.introspection = Introspection()
        self.error_middleware.app = BearerAuthMiddleware(
            self._route, self.admission, self.active_calls, self.meter
        )
        self.forward_auth.start(self.admission, self.meter)
        background_jobs: tuple[Coroutine[Any, Any, None], ...] = (
            self.meter.flush_forever(),
            self.active_calls.recheck_forever(self.admission),
            self.active_calls.keep_alive_forever(),
            RunningCallsReporter(worker, self.writer, self.active_calls).report_forever(),
            RetentionJob(self.writer).clean_forever(),
        )
        self._tasks = [asyncio.create_task(job) for job in background_jobs]
        # Until the end of the stop, which writes usage.
        self._session_watch = asyncio.create_task(
            watch_forever((self.admission.session_watch, self.writer.session_watch))
        )

    def end_calls(self) -> None:
        """End the calls that still run near the end of the graceful time-out, with an error."""
        self.active_calls.end_all(ShuttingDown)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.relay.close()
        self.introspection.close()
        await asyncio.gather(self.meter.flush(), self.admission.close())
        await asyncio.wrap_future(self.writer.close())
        self._session_watch.cancel()

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if endpoint := ENDPOINTS.get(path):
            _require_method("POST", method)
            await self._relay(endpoint, scope, receive, send)
        elif path == MODELS_PATH or path.startswith(MODELS_PATH + "/"):
            _require_method("GET, HEAD", method)
            name = path.removeprefix(MODELS_PATH).removeprefix("/")
            await self._send_models(name, scope, send)
        elif path == KEY_PATH:
            _require_method("GET, HEAD", method)
            await self._send_key(scope["keyportal.call"], send)
        elif wanted := ResponseRequest.read(method, path, scope["query_string"]):
            await self._relay_response_request(wanted, scope, receive, send)
        else:
            raise UnknownPath

    async def _relay(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["keyportal.call"]
        call.endpoint = endpoint.path
        _require_endpoint(endpoint.kind, call.verdict)
        request = await self._read(endpoint, scope, receive)
        try:
            check_deployment(scope, request.model)
            targets = None
            if endpoint.may_be_stored and isinstance(request, CallRequest):
                targets = await self._previous_targets(request, call.verdict)
            attempts = self._upstream_attempts(request, endpoint, call, scope["headers"], targets)
            await _send_first_answer(attempts, scope, receive, send)
        finally:
            request.close()

    async def _previous_targets(
        self, request: CallRequest, verdict: Verdict
    ) -> tuple[Target, ...] | None:
        """The routes to the model server that stores the previous answer; None without one.

        Raises `BadRequest`, `PreviousResponseNotFound`, and what `_find_maker` raises.
        """
        request.check_stored_answer()
        if not (response_id := request.previous_response_id):
            return None
        try:
            maker = await self._find_maker(response_id, verdict)
            return maker.targets(self._find_model(request.model, verdict).targets)
        except ResponseNotFound:
            raise PreviousResponseNotFound from None

    async def _find_maker(self, response_id: str, verdict: Verdict) -> Maker:
        """Raises `ResponseNotFound`, or `ModelNotAllowed` if the key may not call its model.

        Attack: a key for few models reads, or goes on with, what another key of the team has said
        to another model.
        """
        maker = await self.stored_responses.find(verdict.team_slug, response_id)
        try:
            self._find_model(maker.model, verdict)
        except ModelNotFound:
            raise ResponseNotFound from None
        return maker

    async def _relay_response_request(
        self, wanted: ResponseRequest, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Relay a request for a stored answer. It counts as a call, and its tokens don't."""
        call: Call = scope["keyportal.call"]
        call.endpoint = f"/responses/{{id}}{wanted.action}"
        call.tokens = Uncounted()
        _require_endpoint(CHAT, call.verdict)
        maker = await self._find_maker(wanted.response_id, call.verdict)
        call.model = maker.model
        targets = maker.targets(self._find_model(maker.model, call.verdict).targets)
        request = RelayRequest(
            Endpoint(wanted.upstream_path, CHAT),
            scope["headers"],
            call.request_id,
            b"",
            wanted.method,
            wanted.query,
        )

        async def send_to(target: Target) -> Answer:
            return await self.relay.send(target, request, b"")

        # One route is enough: they all lead to the same model server.
        attempts = UpstreamAttempts(targets[:1], send_to, names_stored_answer=True)
        await _send_first_answer(attempts, scope, receive, send)

    async def _read(
        self, endpoint: Endpoint, scope: Scope, receive: Receive
    ) -> CallRequest | Upload:
        """Read the whole body. Check the key again if that took longer than SLOW_BODY_SECONDS."""
        call: Call = scope["keyportal.call"]
        began = time.monotonic()
        call.body_deadline = began + MAX_BODY_SECONDS
        read = Upload.read if endpoint.takes_form else read_body
        body = await read(scope, receive)
        call.body_deadline = 0.0
        if time.monotonic() - began > SLOW_BODY_SECONDS:
            try:
                await self._recheck_key(call)
            except BaseException:
                if isinstance(body, Upload):
                    body.close()
                raise
        return body if isinstance(body, Upload) else parse_call(body, scope.get(DEPLOYMENT, ""))

    async def _recheck_key(self, call: Call) -> None:
        """Raises `InvalidKey` if the key was deleted while the request's body arrived."""
        if not await self.admission.judge(call.digest):
            raise InvalidKey

    def _upstream_attempts(
        self,
        request: CallRequest | Upload,
        endpoint: Endpoint,
        call: Call,
        headers: Headers,
        targets: tuple[Target, ...] | None,
    ) -> UpstreamAttempts:
        served = self._find_model(request.model, call.verdict)
        is_stored = (
            endpoint.may_be_stored and isinstance(request, CallRequest) and request.is_stored
        )
        call.model = request.model
        asks_usage = endpoint.takes_stream_options and request.request_usage()
        relay_request = RelayRequest(endpoint, headers, call.request_id, request.content_type)

        async def send_to(target: Target, sent: CallRequest | Upload = request) -> Answer:
            body = sent.body_for(target.model)
            call.tokens.expect_answer(
                _prompt_estimate(endpoint, body),
                does_generate=endpoint.does_generate,
                makes_images=endpoint.makes_images,
                is_usage_hidden=asks_usage and sent is request,
            )
            call.is_kept_alive = target.sends_keepalive
            if target.base_url == BUILT_IN_URL:
                return app.answer(endpoint.path, body)
            answer = await self.relay.send(target, relay_request, body, call.tokens.prompt_sent)
            if answer.status >= 400:
                call.tokens.prompt_refused()
            if is_stored:
                maker = Maker(call.model, target.upstream_id)
                return await self.stored_responses.watch(answer, call.verdict.team_slug, maker)
            return answer

        if not isinstance(request, CallRequest):
            return UpstreamAttempts(targets or served.targets, send_to)
        return UpstreamAttempts(
            targets or served.targets,
            UsageAsker(request, send_to).send if asks_usage else send_to,
            names_stored_answer="previous_response_id" in request.fields,
        )

    async def _send_models(self, name: str, scope: Scope, send: Send) -> None:
        call: Call = scope["keyportal.call"]
        is_anthropic = expects_anthropic(scope["path"], scope["headers"])
        if name:
            served = self._find_model(name, call.verdict)
            content = anthropic_model(served) if is_anthropic else openai_model(served)
        else:
            models = self._callable_models(call.verdict)
            query: bytes = scope["query_string"]
            content = anthropic_page(models, query) if is_anthropic else openai_list(models)
        await send_response(json_answer(content), call, send)

    async def _send_key(self, call: Call, send: Send) -> None:
        names = [model.name for model in self._callable_models(call.verdict)]
        await send_response(await self.introspection.answer(call.verdict, names), call, send)

    def _callable_models(self, verdict: Verdict) -> list[CatalogEntry]:
        models = self.admission.catalog.models.values()
        return [model for model in models if _is_callable(model, verdict)]

    def _find_model(self, name: str, verdict: Verdict) -> CatalogEntry:
        """Raises `ModelNotFound` or `ModelNotAllowed`.

        Another team's model is answered like one that doesn't exist. Attack: a key's owner learns
        from the error which models another team has.
        """
        served = self.admission.catalog.models.get(name)
        if served is None or not served.targets or served.team_id not in {None, verdict.team_id}:
            raise ModelNotFound
        if not verdict.may_call(name):
            raise ModelNotAllowed(name, str(verdict.models))
        return served


async def _not_started(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ShuttingDown


def _require_method(allowed: str, method: str) -> None:
    if method not in allowed.split(", "):
        raise MethodNotAllowed(allowed)


def _require_endpoint(kind: str, verdict: Verdict) -> None:
    if verdict.endpoints not in (ALL_ENDPOINTS, kind):
        raise EndpointNotAllowed(Endpoints(verdict.endpoints).label.lower())


async def _send_first_answer(
    attempts: UpstreamAttempts, scope: Scope, receive: Receive, send: Send
) -> None:
    """Ask the upstreams, and send the answer. If the client disconnects, the call ends."""
    call: Call = scope["keyportal.call"]
    watcher = None
    if "keyportal.on_disconnect" in scope:
        scope["keyportal.on_disconnect"](call.client_disconnected)
    else:
        # A server other than our own has no such callback.
        watcher = asyncio.create_task(_watch_for_disconnect(receive, call))
    try:
        with attempts:
            await send_response(await attempts.answer(), call, send)
    finally:
        if watcher is not None:
            watcher.cancel()


def _prompt_estimate(endpoint: Endpoint, body: bytes | StreamedBody) -> int:
    """The tokens of the prompt if the model server doesn't report them."""
    if not isinstance(body, bytes):
        return MEDIA_TOKENS  # A form with a file in it.
    return prompt_tokens(body) if endpoint.has_prompt else 0


def _is_callable(served: CatalogEntry, verdict: Verdict) -> bool:
    return (
        bool(served.targets)
        and served.team_id in {None, verdict.team_id}
        and verdict.may_call(served.name)
    )


async def _watch_for_disconnect(receive: Receive, call: Call) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call.client_disconnected()
