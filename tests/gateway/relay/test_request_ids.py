"""Operators find a call in a model server's log by the ids in ours."""

import asyncio
import logging
import re

import pytest

from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.snapshot import Target
from keyportal.gateway.endpoints import Endpoint
from keyportal.gateway.errors import UpstreamFailed
from keyportal.gateway.relay.relay import Relay, RelayRequest
from tests.support.server import free_port

pytestmark = pytest.mark.any_database
UUID4 = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"


@pytest.mark.parametrize(("level", "count"), [(logging.DEBUG, 2), (logging.INFO, 0)])
def test_both_ids_of_each_attempt_are_logged_for_debugging(
    level: int, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    target = Target("u", f"http://127.0.0.1:{free_port()}/v1", ServerHeaders(), "m", 1, 1, 1)
    request = RelayRequest(Endpoint("/chat/completions"), [], "req_1", b"application/json")

    async def call_twice() -> None:
        relay = Relay()
        for _ in range(2):
            with pytest.raises(UpstreamFailed):
                await relay.send(target, request, b"{}")
        relay.close()

    with caplog.at_level(level, "keyportal.gateway.relay.relay"):
        asyncio.run(call_twice())
    ids = re.findall(f"Call req_1 goes upstream as ({UUID4})\\.", caplog.text)
    assert len(ids) == len(set(ids)) == count
