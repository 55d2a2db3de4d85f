"""The way to serve: programs through two doors, people through the third."""

import os
from typing import cast

import django

from keyportal.http.django_handler import PortalHandler
from keyportal.http.types import ASGIApp, Receive, Scope, Send

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "keyportal.settings")
django.setup(set_prefix=False)
portal = cast("ASGIApp", PortalHandler())

# What follows needs Django's settings and models, which the lines above have set up.
from keyportal.api.framework.dispatch import buffered_api  # noqa: E402
from keyportal.gateway.app import Gateway  # noqa: E402
from keyportal.gateway.forward_auth.app import is_verification  # noqa: E402
from keyportal.http.buffering import RequestBuffer  # noqa: E402
from keyportal.http.constant_time import ConstantTimeMiddleware  # noqa: E402
from keyportal.http.trusted_proxies import TrustedProxies  # noqa: E402
from keyportal.leaks.reports import ADDRESS, MAX_BYTES  # noqa: E402
from keyportal.scheduler.runner import Scheduler  # noqa: E402

# Their answers must not tell by their time whether there is such a key or account.
CONSTANT_TIME = {ADDRESS, "/accounts/password/reset/"}


class Router:
    """`/v1/` and `/auth/verify` are the gateway's, `/api/` the management API's, the lifespan is
    answered here, and everything else is the portal's.

    A session opens pages and nothing else; a bearer token opens `/v1/` or `/api/`, by its kind, and
    never a page: none of the three reads another's credential.
    """

    def __init__(self, gateway: Gateway, portal: ASGIApp, api: ASGIApp, reports: ASGIApp) -> None:
        self.gateway = gateway
        self._http = TrustedProxies(self._door)
        self._portal = portal
        self._api = api
        # Anybody may report a leak, or ask for a new password: if the key or the account exists,
        # mail is written, which takes time. Places of their own: a crowd there keeps no page
        # waiting, and the wait for even answers holds up nobody who signs in.
        self._reports = reports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _door(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if path.startswith("/v1/") or path == "/v1" or is_verification(path):
            await self.gateway(scope, receive, send)
        elif path.startswith("/api/"):
            await self._api(scope, receive, send)
        elif path in CONSTANT_TIME:
            await self._reports(scope, receive, send)
        else:
            await self._portal(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        scheduler = Scheduler()
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.gateway.start()
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
    RequestBuffer(ConstantTimeMiddleware(portal), largest=MAX_BYTES),
)
