"""Counts of pages and of the management API, by area and class of status."""

import asyncio
from contextlib import suppress

import pytest

from keyportal.gateway.metrics.page_counts import PageCounts
from keyportal.http.types import Message, Receive, Scope, Send

pytestmark = pytest.mark.any_database


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    status = int(scope["path"].rpartition("/")[2])
    if not status:
        raise asyncio.CancelledError
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def ignore(message: Message) -> None:
    pass


async def nothing() -> Message:
    return {"type": "http.disconnect"}


def test_pages_are_counted_by_area_and_status_and_never_by_path() -> None:
    counts = PageCounts()
    portal, api = counts.around(app, "portal"), counts.around(app, "api")

    async def run() -> None:
        for path in ("/a/200", "/b/204", "/c/404", "/static/200", "/d/0"):
            with suppress(asyncio.CancelledError):
                await portal({"type": "http", "path": path}, nothing, ignore)
        await api({"type": "http", "path": "/api/v1/keys/503"}, nothing, ignore)

    asyncio.run(run())
    (samples,) = counts.collect().values()
    assert {labels: sum(values[:-1]) for labels, values in samples} == {
        ("portal", "2xx"): 2,
        ("portal", "4xx"): 2,  # One left before its response.
        ("static", "2xx"): 1,
        ("api", "5xx"): 1,
    }
