"""The gateway's ASGI application, without Django's request stack, which costs ten relayed calls."""

import asyncio
import secrets
from collections.abc import Awaitable, Coroutine
from typing import Any

from django.conf import settings

from keyportal.catalog.snapshot import CatalogEntry
from keyportal.gateway.access import callable_models, find_model
from keyportal.gateway.admission.batcher import Admission
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.aliases import expects_anthropic
from keyportal.gateway.authentication import BearerAuthMiddleware
from keyportal.gateway.calls import ActiveCalls, Call
from keyportal.gateway.cors import CORSMiddleware
from keyportal.gateway.endpoints import ENDPOINTS, KEY_PATH, MODELS_PATH
from keyportal.gateway.error_middleware import ErrorMiddleware
from keyportal.gateway.errors import GatewayError, MethodNotAllowed, ShuttingDown, UnknownPath
from keyportal.gateway.forward_auth.app import ForwardAuth, is_verification
from keyportal.gateway.introspection import Introspection
from keyportal.gateway.metering.health_reporter import HealthReporter
from keyportal.gateway.metering.meter import Meter
from keyportal.gateway.metering.retention import RetentionJob
from keyportal.gateway.metering.running_calls import RunningCallsReporter
from keyportal.gateway.metering.writer import Writer
from keyportal.gateway.metrics.access_log import AccessLog
from keyportal.gateway.metrics.ended_requests import UNREADABLE, EndedRequest, Observer
from keyportal.gateway.metrics.files import MetricsFolder
from keyportal.gateway.metrics.page_counts import PageCounts
from keyportal.gateway.metrics.publisher import MetricsPublisher
from keyportal.gateway.metrics.request_counts import RequestCounts
from keyportal.gateway.model_calls import ModelCalls
from keyportal.gateway.model_list import (
    anthropic_model,
    anthropic_page,
    openai_list,
    openai_model,
)
from keyportal.gateway.relay.answer import json_answer
from keyportal.gateway.relay.relay import Relay
from keyportal.gateway.relay.sending import send_response
from keyportal.gateway.response_requests import ResponseRequest, ResponseRequests
from keyportal.gateway.session_watch import watch_forever
from keyportal.gateway.stored_responses import StoredResponses
from keyportal.http.types import ASGIApp, Receive, Scope, Send


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
        self.metrics_folder: MetricsFolder | None = None
        """Where the counts of this worker are written; None: nowhere."""
        self.page_counts = PageCounts()
        self._metrics: MetricsPublisher | None = None
        self._access_log: AccessLog | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        app = self.forward_auth if is_verification(scope["path"]) else self._v1
        return app(scope, receive, send)

    async def start(self) -> None:
        """Create the worker's objects; after the fork, because workers can't share them."""
        worker = secrets.token_hex(8)
        self.admission = Admission(worker, asyncio.get_running_loop())
        self.writer = Writer()
        self.meter = Meter(worker, self.writer)
        self.relay = Relay()
        stored_responses = StoredResponses(self.writer)
        self.model_calls = ModelCalls(
            self.admission, self.relay, stored_responses, self.error_middleware.turns
        )
        self.response_requests = ResponseRequests(self.admission, self.relay, stored_responses)
        self.introspection = Introspection()
        self.health_reporter = HealthReporter(worker, self.writer)
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
            self.health_reporter.report_forever(),
        )
        self._tasks = [asyncio.create_task(job) for job in background_jobs]
        if self.metrics_folder is not None:
            self._start_metrics(worker, self.metrics_folder)
        if settings.ACCESS_LOG:
            self._access_log = AccessLog(settings.ACCESS_LOG)
            self._observe_requests(self._access_log)
        # Until the end of the stop, which writes usage.
        self._session_watch = asyncio.create_task(
            watch_forever((self.admission.session_watch, self.writer.session_watch))
        )

    def _start_metrics(self, worker: str, folder: MetricsFolder) -> None:
        counts = RequestCounts(self._find_entry, names_teams=settings.METRICS_TEAMS)
        self._observe_requests(counts)
        self._metrics = MetricsPublisher(
            worker,
            folder,
            counts,
            self.page_counts,
            self.admission,
            self.active_calls,
            self.writer,
        )
        self._tasks.append(asyncio.create_task(self._metrics.publish_forever()))

    def _observe_requests(self, observer: Observer) -> None:
        self.error_middleware.observers += (observer,)
        self.forward_auth.observers += (observer,)

    def observe_unreadable(self, error: GatewayError, request_id: str) -> None:
        """Count a request that the server has refused because it can't be read."""
        ended = EndedRequest(request_id, UNREADABLE, error.status, 0.0, error.code or "")
        for observe in self.error_middleware.observers:
            observe(ended)

    def _find_entry(self, name: str) -> CatalogEntry | None:
        return self.admission.catalog.models.get(name)

    def end_calls(self) -> None:
        """End the calls that still run near the end of the graceful time-out, with an error."""
        self.active_calls.end_all(ShuttingDown)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self.relay.close()
        self.introspection.close()
        await asyncio.gather(self.meter.flush(), self.admission.close(), self.health_reporter.end())
        await asyncio.wrap_future(self.writer.close())
        if self._metrics is not None:
            self._metrics.publish()
        if self._access_log is not None:
            self._access_log.close()
        self._session_watch.cancel()

    def _route(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path, method = scope["path"], scope["method"]
        if endpoint := ENDPOINTS.get(path):
            _require_method("POST", method)
            return self.model_calls.serve(endpoint, scope, receive, send)
        if path == MODELS_PATH or path.startswith(MODELS_PATH + "/"):
            _require_method("GET, HEAD", method)
            name = path.removeprefix(MODELS_PATH).removeprefix("/")
            return self._send_models(name, scope, send)
        if path == KEY_PATH:
            _require_method("GET, HEAD", method)
            return self._send_key(scope["keyportal.call"], send)
        if wanted := ResponseRequest.read(method, path, scope["query_string"]):
            return self.response_requests.serve(wanted, scope, receive, send)
        raise UnknownPath

    async def _send_models(self, name: str, scope: Scope, send: Send) -> None:
        call: Call = scope["keyportal.call"]
        is_anthropic = expects_anthropic(scope["path"], scope["headers"])
        if name:
            served = find_model(self.admission.catalog.models, name, call.verdict)
            content = anthropic_model(served) if is_anthropic else openai_model(served)
        else:
            models = self._callable_models(call.verdict)
            query: bytes = scope["query_string"]
            content = anthropic_page(models, query) if is_anthropic else openai_list(models)
        await send_response(json_answer(content), call, send)

    async def _send_key(self, call: Call, send: Send) -> None:
        names = [model.id for model in self._callable_models(call.verdict)]
        await send_response(await self.introspection.answer(call.verdict, names), call, send)

    def _callable_models(self, verdict: Verdict) -> list[CatalogEntry]:
        return callable_models(self.admission.catalog.models, verdict)


async def _not_started(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise ShuttingDown


def _require_method(allowed: str, method: str) -> None:
    if method not in allowed.split(", "):
        raise MethodNotAllowed(allowed)
