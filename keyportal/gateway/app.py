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
from keyportal.gateway.authentication import KEY_PATH, MODELS_PATH, BearerAuthMiddleware
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.cors import CORSMiddleware
from keyportal.gateway.demo_model import app
from keyportal.gateway.endpoints import ENDPOINTS, Endpoint
from keyportal.gateway.error_middleware import ErrorMiddleware
from keyportal.gateway.errors import (
    EndpointNotAllowed,
    InvalidKey,
    MethodNotAllowed,
    ModelNotAllowed,
    ModelNotFound,
    ShuttingDown,
    UnknownPath,
)
from keyportal.gateway.forward_auth.app import ForwardAuth, is_verification
from keyportal.gateway.introspection import Introspection
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.retention import RetentionJob
from keyportal.gateway.metering.running_calls import RunningCallsReporter
from keyportal.gateway.metering.writer import Writer
from keyportal.gateway.relay.answer import Answer, json_answer
from keyportal.gateway.relay.failover import UpstreamAttempts
from keyportal.gateway.relay.json_body import CallRequest, parse_call
from keyportal.gateway.relay.relay import Relay, RelayRequest, send_response
from keyportal.gateway.relay.request_body import MAX_BODY_SECONDS, read_body
from keyportal.gateway.relay.upload import Upload
from keyportal.gateway.relay.usage_request import UsageAsker
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

    def end_calls(self) -> None:
        """End the calls that still run near the end of the graceful time-out, with an error."""
        self.active_calls.end_all(ShuttingDown)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.relay.close()
        self.introspection.close()
        await self.meter.flush()
        self.writer.close()
        await self.admission.close()

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
        else:
            raise UnknownPath

    async def _relay(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["keyportal.call"]
        call.endpoint = endpoint.path
        if call.verdict.endpoints not in (ALL_ENDPOINTS, endpoint.kind):
            raise EndpointNotAllowed(Endpoints(call.verdict.endpoints).label.lower())
        request = await self._read(endpoint, scope, receive)
        if endpoint.may_be_stored and isinstance(request, CallRequest):
            request.require_foreground()
        watcher = None
        if "keyportal.on_disconnect" in scope:
            scope["keyportal.on_disconnect"](call.client_disconnected)
        else:
            # A server other than our own has no such callback.
            watcher = asyncio.create_task(_watch_for_disconnect(receive, call))
        try:
            with self._upstream_attempts(request, endpoint, call, scope["headers"]) as attempts:
                await send_response(await attempts.answer(), call, send)
        finally:
            if watcher is not None:
                watcher.cancel()
            request.close()

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
        return body if isinstance(body, Upload) else parse_call(body)

    async def _recheck_key(self, call: Call) -> None:
        """Raises `InvalidKey` if the key was deleted while the request's body arrived."""
        if not await self.admission.judge(call.digest):
            raise InvalidKey

    def _upstream_attempts(
        self, request: CallRequest | Upload, endpoint: Endpoint, call: Call, headers: Headers
    ) -> UpstreamAttempts:
        served = self._find_model(request.model, call.verdict)
        call.model = request.model
        asks_usage = endpoint.takes_stream_options and request.request_usage()
        relay_request = RelayRequest(endpoint, headers, call.request_id, request.content_type)

        async def send_to(target: Target, sent: CallRequest | Upload = request) -> Answer:
            body = sent.body_for(target.model)
            prompt_bytes = len(body) if endpoint.has_prompt else 0
            call.tally.request_sent(
                prompt_bytes,
                does_generate=endpoint.does_generate,
                is_usage_hidden=asks_usage and sent is request,
            )
            call.is_kept_alive = target.sends_keepalive
            if target.base_url == BUILT_IN_URL:
                return app.answer(endpoint.path, body)
            return await self.relay.send(target, relay_request, body)

        if not isinstance(request, CallRequest):
            return UpstreamAttempts(served.targets, send_to)
        return UpstreamAttempts(
            served.targets,
            UsageAsker(request, send_to).send if asks_usage else send_to,
            names_stored_answer="previous_response_id" in request.fields,
        )

    async def _send_models(self, name: str, scope: Scope, send: Send) -> None:
        call: Call = scope["keyportal.call"]
        if name:
            content: object = _model_object(self._find_model(name, call.verdict))
        else:
            data = [_model_object(model) for model in self._callable_models(call.verdict)]
            content = {"object": "list", "data": data}
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


def _is_callable(served: CatalogEntry, verdict: Verdict) -> bool:
    return (
        bool(served.targets)
        and served.team_id in {None, verdict.team_id}
        and verdict.may_call(served.name)
    )


def _model_object(served: CatalogEntry) -> dict[str, object]:
    """Return a model as an object of OpenAI's `/v1/models`."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": served.owned_by,
    }


async def _watch_for_disconnect(receive: Receive, call: Call) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call.client_disconnected()
