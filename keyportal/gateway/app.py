"""The gateway: an ASGI application of its own, because Django's request stack costs ten relays."""

import asyncio
import secrets
import time
from collections.abc import Coroutine
from typing import Any

from keyportal.catalog.models import BUILT_IN_URL
from keyportal.catalog.snapshot import CatalogEntry, Target
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.authentication import KEY, MODELS, BearerAuthMiddleware
from keyportal.gateway.calls import ActiveCalls, Call
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
from keyportal.gateway.relay.json_body import CallRequest, parse_call, read_body
from keyportal.gateway.relay.relay import Relay, RelayRequest, send_response
from keyportal.gateway.relay.upload import Upload
from keyportal.http.types import Headers, Receive, Scope, Send
from keyportal.keys.rules.permissions import Endpoints

SLOW_BODY_SECONDS = 1.0
ANY = Endpoints.ALL.value


class Gateway:
    """All that one worker needs to serve `/v1/` and `/auth/verify`. Starting needs no database."""

    def __init__(self) -> None:
        self.flight = ActiveCalls()
        self.edge = ErrorMiddleware(_too_early)
        self.forward = ForwardAuth()
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        door = self.forward if is_verification(scope["path"]) else self.edge
        await door(scope, receive, send)

    async def start(self) -> None:
        """Build what belongs to one worker: now, because they are forked from one that has not."""
        worker = secrets.token_hex(8)
        self.admission = Admission(worker, asyncio.get_running_loop())
        self.writer = Writer()
        self.meter = Meter(worker, self.writer)
        self.relay = Relay()
        self.introspection = Introspection()
        self.edge.app = BearerAuthMiddleware(self._serve, self.admission, self.flight, self.meter)
        self.forward.start(self.admission, self.meter)
        forever: tuple[Coroutine[Any, Any, None], ...] = (
            self.meter.flush_forever(),
            self.flight.rejudge_forever(self.admission),
            RunningCallsReporter(worker, self.writer, self.flight).report_forever(),
            RetentionJob(self.writer).clean_forever(),
        )
        self._tasks = [asyncio.create_task(work) for work in forever]

    def end_calls(self) -> None:
        """The time to finish is over: tell those that still run, while we can."""
        self.flight.end_all(ShuttingDown)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.relay.close()
        self.introspection.close()
        await self.meter.flush()
        self.writer.close()
        await self.admission.close()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        if endpoint := ENDPOINTS.get(path):
            _allow("POST", method)
            await self._relay(endpoint, scope, receive, send)
        elif path == MODELS or path.startswith(MODELS + "/"):
            _allow("GET, HEAD", method)
            await self._models(path.removeprefix(MODELS).removeprefix("/"), scope, send)
        elif path == KEY:
            _allow("GET, HEAD", method)
            await self._key(scope["keyportal.call"], send)
        else:
            raise UnknownPath

    async def _relay(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["keyportal.call"]
        call.endpoint = endpoint.path
        if call.verdict.endpoints not in (ANY, endpoint.kind):
            raise EndpointNotAllowed(Endpoints(call.verdict.endpoints).label.lower())
        request = await self._read(endpoint, scope, receive)
        watch = None
        if "keyportal.on_disconnect" in scope:
            scope["keyportal.on_disconnect"](call.leave)
        else:
            # Another server than our own must be asked.
            watch = asyncio.create_task(_watch(receive, call))
        try:
            with self._journey(request, endpoint, call, scope["headers"]) as journey:
                await send_response(await journey.answer(), call, send)
        finally:
            if watch is not None:
                watch.cancel()
            request.close()

    async def _read(
        self, endpoint: Endpoint, scope: Scope, receive: Receive
    ) -> CallRequest | Upload:
        """Read the whole body. Judge the key again if that took more than a second."""
        began = time.monotonic()
        read = Upload.read if endpoint.takes_form else read_body
        body = await read(scope, receive)
        if time.monotonic() - began > SLOW_BODY_SECONDS:
            try:
                await self._judge_again(scope["keyportal.call"])
            except BaseException:
                if isinstance(body, Upload):
                    body.close()
                raise
        return body if isinstance(body, Upload) else parse_call(body)

    async def _judge_again(self, call: Call) -> None:
        """Raises `InvalidKey` if the key was deleted while its request's body was on the way."""
        if not await self.admission.judge(call.digest):
            raise InvalidKey

    def _journey(
        self, request: CallRequest | Upload, endpoint: Endpoint, call: Call, headers: Headers
    ) -> UpstreamAttempts:
        served = self._find(request.model, call.verdict)
        call.model = request.model
        hidden = endpoint.takes_stream_options and request.request_usage()
        asked = RelayRequest(endpoint, headers, call.request_id, request.content_type)

        async def ask(target: Target) -> Answer:
            body = request.body_for(target.model)
            prompt = len(body) if endpoint.has_prompt else 0
            call.tally.request_sent(
                prompt, does_generate=endpoint.does_generate, is_usage_hidden=hidden
            )
            if target.base_url == BUILT_IN_URL:
                return app.answer(endpoint.path, body)
            return await self.relay.send(target, asked, body)

        return UpstreamAttempts(served.targets, ask)

    async def _models(self, name: str, scope: Scope, send: Send) -> None:
        call: Call = scope["keyportal.call"]
        if name:
            content: object = _listed(self._find(name, call.verdict))
        else:
            data = [_listed(model) for model in self._callable(call.verdict)]
            content = {"object": "list", "data": data}
        await send_response(json_answer(content), call, send)

    async def _key(self, call: Call, send: Send) -> None:
        names = [model.name for model in self._callable(call.verdict)]
        await send_response(await self.introspection.answer(call.verdict, names), call, send)

    def _callable(self, verdict: Verdict) -> list[CatalogEntry]:
        served = self.admission.catalog.models.values()
        return [model for model in served if _may_list(model, verdict)]

    def _find(self, name: str, verdict: Verdict) -> CatalogEntry:
        """Another team's model is as unknown as one that doesn't exist."""
        served = self.admission.catalog.models.get(name)
        if served is None or not served.targets or served.team_id not in {None, verdict.team_id}:
            raise ModelNotFound
        if not verdict.may_call(name):
            raise ModelNotAllowed(name, str(verdict.models))
        return served


async def _too_early(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ShuttingDown


def _allow(allowed: str, method: str) -> None:
    if method not in allowed.split(", "):
        raise MethodNotAllowed(allowed)


def _may_list(served: CatalogEntry, verdict: Verdict) -> bool:
    return (
        bool(served.targets)
        and served.team_id in {None, verdict.team_id}
        and verdict.may_call(served.name)
    )


def _listed(served: CatalogEntry) -> dict[str, object]:
    """A model as OpenAI's `/v1/models` lists it."""
    return {
        "id": served.name,
        "object": "model",
        "created": served.created,
        "owned_by": served.owned_by,
    }


async def _watch(receive: Receive, call: Call) -> None:
    """Wait for the client to go away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    call.leave()
