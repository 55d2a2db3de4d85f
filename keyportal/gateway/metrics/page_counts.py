"""Counts of what is served beside the gateway: pages, the management API and static files."""

import time

from keyportal.gateway.metrics.families import PAGE_DURATION, Histogram, Labels, Snapshot
from keyportal.http.types import ASGIApp, Message, Receive, Scope, Send

STATIC = "/static/"
ABANDONED = 499
"""The status of a request whose client left before its response."""


class PageCounts:
    """One per worker. No label comes from a client: a path is never one."""

    def __init__(self) -> None:
        self._durations: dict[Labels, Histogram] = {}

    def around(self, app: ASGIApp, area: str) -> ASGIApp:
        """The same application, whose requests are counted in this area."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            began, status = time.monotonic(), ABANDONED

            async def watch(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            try:
                await app(scope, receive, watch)
            finally:
                is_static = scope["path"].startswith(STATIC)
                labels = ("static" if is_static else area, f"{status // 100}xx")
                self._observe(labels, time.monotonic() - began)

        return counted

    def _observe(self, labels: Labels, seconds: float) -> None:
        histogram = self._durations.get(labels)
        if histogram is None:
            histogram = self._durations[labels] = Histogram(PAGE_DURATION.bounds)
        histogram.observe(seconds)

    def collect(self) -> Snapshot:
        samples = [(labels, histogram.values) for labels, histogram in self._durations.items()]
        return {PAGE_DURATION.name: samples}
