"""The ASGI application: routes each request to the gateway, the management API or the portal."""

import os
from collections.abc import Awaitable
from typing import cast

import django
from django.conf import settings

from keyportal.http.base_path import BasePathAdded, BasePathRemoved
from keyportal.http.django_handler import PortalHandler
from keyportal.http.types import ASGIApp, Receive, Scope, Send

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")
django.setup(set_prefix=False)
portal = cast("ASGIApp", PortalHandler())
if settings.BASE_PATH:
    portal = BasePathAdded(portal, settings.BASE_PATH)

# The imports below need Django's settings and models, which the lines above have set up.
from keyportal.api.framework.dispatch import buffered_api  # noqa: E402
from keyportal.gateway import aliases  # noqa: E402
from keyportal.gateway.app import Gateway  # noqa: E402
from keyportal.gateway.endpoints import ENDPOINTS  # noqa: E402
from keyportal.gateway.errors import GatewayError  # noqa: E402
from keyportal.gateway.forward_auth.app import is_verification  # noqa: E402
from keyportal.http.buffering import RequestBuffer  # noqa: E402
from keyportal.http.constant_time import ConstantTimeMiddleware  # noqa: E402
from keyportal.http.trusted_proxies import TrustedProxies  # noqa: E402
from keyportal.leaks.reports import MAX_BYTES, REPORT_PATH  # noqa: E402
from keyportal.scheduler.runner import Scheduler  # noqa: E402
from keyportal.server.health import HEALTH_PATHS, HealthChecks  # noqa: E402

# Attack: the response time of these shows whether a key or an account exists.
CONSTANT_TIME_PATHS = {REPORT_PATH, "/accounts/password/reset/"}


class Router:
    """Routes `/v1/` and `/auth/verify` to the gateway, `/api/` to the management API, the probes to
    the health checks, and all other paths to the portal. It handles the lifespan itself.

    Other paths that mean an endpoint of `/v1/` are routed like it, with the endpoint's own path.
    Where `KEYPORTAL_URL` has a path, all this holds below it, and also without it, because a proxy
    may have removed it.

    A session gives access to pages only. An API key gives access to `/v1/` only, and a management
    key or the token of SCIM to `/api/` only. None of the three applications reads a credential of
    another.
    """

    def __init__(
        self, gateway: Gateway, portal: ASGIApp, api: ASGIApp, constant_time: ASGIApp
    ) -> None:
        self.gateway = gateway
        self.health = HealthChecks()
        base_path = settings.BASE_PATH
        app = BasePathRemoved(self._route, base_path) if base_path else self._route
        self._http = TrustedProxies(app)
        self._portal = portal
        self._api = api
        # Anyone may report a leak or request a new password. If the key or the account exists,
        # mail is written, which takes time. These paths have slots of their own, so that many such
        # requests delay no other page, and the constant-time delay does not slow down sign-in.
        self._constant_time = constant_time

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close"})

    def _route(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """No coroutine, because it would cost a microsecond of each call."""
        path: str = scope["path"]
        if path in ENDPOINTS or is_verification(path):
            return self.gateway(scope, receive, send)
        if match := aliases.find(path):
            # A copy, because the access log must show the path that the client sent.
            routed = {**scope, "path": match.path, aliases.DEPLOYMENT: match.model}
            return self.gateway(routed, receive, send)
        return self._application(path)(scope, receive, send)

    def _application(self, path: str) -> ASGIApp:
        """What serves a path that is none of an endpoint's."""
        if path.startswith("/v1/") or path == "/v1":
            return self.gateway
        if path.startswith("/api/"):
            return self._api
        if path in CONSTANT_TIME_PATHS:
            return self._constant_time
        return self.health if path in HEALTH_PATHS else self._portal

    def on_unreadable(self, error: GatewayError, request_id: str) -> None:
        """Called by the server for a request that it refuses itself."""
        self.gateway.observe_unreadable(error, request_id)

    def _count_pages(self) -> None:
        if self.gateway.metrics_folder is not None:
            around = self.gateway.page_counts.around
            self._portal = around(self._portal, "portal")
            self._constant_time = around(self._constant_time, "portal")
            self._api = around(self._api, "api")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        scheduler = Scheduler()
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.gateway.start()
                self._count_pages()
                scheduler.start()
                await send({"type": "lifespan.startup.complete"})
            else:
                scheduler.end()
                await self.gateway.stop()
                await scheduler.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return


application = Router(
    Gateway(),
    RequestBuffer(portal),
    buffered_api(portal),
    RequestBuffer(ConstantTimeMiddleware(portal), max_bytes=MAX_BYTES),
)
