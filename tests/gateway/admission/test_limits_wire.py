"""Limits over the wire: on several workers, with the official client."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
import pytest
from django.db.models import F, QuerySet

from keyportal.keys.models import ApiKey
from keyportal.teams.limits import Limits
from keyportal.teams.models import Team, User
from keyportal.usage.models import Lease, Window, key_subject
from keyportal.usage.models.counters import LEASE_SECONDS
from tests.support.clock import ensure_time_left
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.lazy import LazyModule
from tests.support.server import CHAT, Server, chat_body, wait_until

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]


def windows() -> QuerySet[Window]:
    """The windows of this test's only key; the shared server may still count for other tests."""
    return Window.objects.filter(subject=key_subject(ApiKey.objects.get().public_id))


def wait_for_tokens(number: int) -> None:
    """Tokens are counted within 20 ms, on an idle machine."""
    wait_until(windows().filter(tokens=number).exists)


@pytest.fixture
def limited(alice: User, issue: Issue) -> Callable[..., str]:
    def limited(**limits: int) -> str:
        return issue(alice, limits=Limits(**limits))[1]

    return limited


def client(server: Server, key: str, **more: object) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, **more)  # type: ignore[arg-type]


async def call_at_once(server: Server, key: str, model: str, number: int) -> Counter[int]:
    headers = {"Authorization": f"Bearer {key}"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def call() -> int:
            async with session.post(server.url + CHAT, json=chat_body(model)) as answer:
                await answer.read()
                return answer.status

        return Counter(await asyncio.gather(*(call() for _ in range(number))))


def test_limit_is_exact_for_calls_at_once_and_refused_ones_reach_no_upstream(
    live: Server, limited: Callable[..., str], serve_model: Serve, fake: FakeUpstream
) -> None:
    key, model = limited(requests_per_minute=150), serve_model("count:3,5")
    ensure_time_left(30)
    assert asyncio.run(call_at_once(live, key, model, 200)) == {200: 150, 429: 50}
    assert len(fake.received) == 150
    assert windows().get().requests == 150


@pytest.mark.any_database
def test_responses_to_a_limited_key_have_rate_limit_headers(
    live: Server, limited: Callable[..., str], serve_model: Serve
) -> None:
    key, model = limited(requests_per_minute=10, tokens_per_day=1000), serve_model("count:3,5")
    ensure_time_left(15)
    told = live.chat(key, model).headers
    assert told["x-ratelimit-limit-requests"] == "10"
    assert told["x-ratelimit-remaining-requests"] == "9"
    assert told["x-ratelimit-reset-requests"].endswith("s")
    assert told["x-ratelimit-limit-tokens"] == "1000"
    assert told["x-ratelimit-remaining-tokens"] == "1000"
    assert "h" in told["x-ratelimit-reset-tokens"] or "m" in told["x-ratelimit-reset-tokens"]
    wait_for_tokens(8)
    assert live.chat(key, model).headers["x-ratelimit-remaining-tokens"] == "992"


@pytest.mark.any_database
def test_responses_to_a_key_without_limits_have_no_rate_limit_headers(
    live: Server, limited: Callable[..., str], serve_model: Serve
) -> None:
    told = live.chat(limited(), serve_model("count:3,5")).headers
    assert not [name for name in told if name.startswith("x-ratelimit")]


def test_admitted_call_is_counted_even_if_it_fails(
    live: Server, limited: Callable[..., str], serve_model: Serve
) -> None:
    key, model = limited(requests_per_day=5), serve_model("status:500")
    assert live.chat(key, "nobody/knows").status == 404
    page = {"Content-Type": "text/html"}
    assert live.request("POST", CHAT, key=key, body=b"[]", headers=page).status == 415
    refused = live.request("POST", CHAT, key=key, body=b"[]")
    assert (refused.status, refused.headers["x-ratelimit-remaining-requests"]) == (400, "2")
    assert live.chat(key, model).status == 500
    assert live.request("GET", "/v1/models", key=key).status == 200
    assert live.request("GET", "/v1/nowhere", key=key).status == 404
    last = live.chat(key, model)
    assert (last.status, last.code) == (429, "insufficient_quota")
    # The list of models is still answered.
    assert live.request("GET", "/v1/models", key=key).status == 200


def seconds_left() -> float:
    """Of this minute."""
    return 60 - datetime.now(UTC).timestamp() % 60


@pytest.mark.any_database
def test_full_minute_is_a_rate_limit_with_retry_after(
    live: Server, limited: Callable[..., str], serve_model: Serve, fake: FakeUpstream
) -> None:
    key, model = limited(requests_per_minute=1), serve_model("count:3,5")
    ensure_time_left(15)
    live.chat(key, model)
    before = seconds_left()
    refused = live.chat(key, model)
    assert (refused.status, refused.code) == (429, "rate_limit_exceeded")
    assert refused.json()["error"]["type"] == "requests"
    assert seconds_left() - 1 <= int(refused.headers["retry-after"]) <= before + 2
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.headers["x-request-id"]
    assert len(fake.received) == 1


@pytest.mark.any_database
def test_official_client_does_not_retry_a_used_up_quota(
    live: Server, limited: Callable[..., str], serve_model: Serve
) -> None:
    key, model = limited(tokens_per_month=8), serve_model("count:3,5")
    body = chat_body(model)
    official = client(live, key, max_retries=5)
    official.chat.completions.create(**body)  # type: ignore[call-overload]
    wait_for_tokens(8)
    with pytest.raises(openai.RateLimitError) as refused:
        official.chat.completions.create(**body)  # type: ignore[call-overload]
    assert refused.value.response.request.headers["x-stainless-retry-count"] == "0"
    assert refused.value.code == refused.value.type == "insufficient_quota"
    assert "8 tokens per month" in str(refused.value)


@pytest.mark.any_database
def test_official_client_waits_for_retry_after(
    live: Server, limited: Callable[..., str], serve_model: Serve, fake: FakeUpstream
) -> None:
    """One call runs; the other waits for Retry-After, and then is served."""
    key = limited(parallel_requests=1)
    slow, quick = serve_model("wait"), serve_model("count:3,5")
    with live.connect() as running:
        running.chat(key, slow, stream=True)
        running.read_head()
        with pytest.raises(openai.RateLimitError):
            client(live, key, max_retries=0).chat.completions.create(**chat_body(quick))  # type: ignore[call-overload]
        began = time.monotonic()
        threading.Timer(1.5, fake.released.set).start()
        client(live, key, max_retries=5).chat.completions.create(**chat_body(quick))  # type: ignore[call-overload]
        assert time.monotonic() - began > 0.9


@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
def test_sequential_calls_never_exceed_a_parallel_limit_of_one(
    is_streamed: bool, live: Server, limited: Callable[..., str], serve_model: Serve
) -> None:
    key, model = limited(parallel_requests=1), serve_model("count:3,5")
    with ExitStack() as stack:
        # One after the other, on connections to all workers.
        connections = [stack.enter_context(live.connect()) for _ in range(5)]
        for connection in connections * 6:
            connection.chat(key, model, stream=is_streamed)
            assert connection.reply().status == 200


def test_disconnect_releases_the_slot(
    live: Server, limited: Callable[..., str], serve_model: Serve
) -> None:
    key = limited(parallel_requests=1)
    endless, quick = serve_model("endless"), serve_model("count:3,5")
    for _ in range(3):
        with live.connect() as running:
            running.chat(key, endless, stream=True)
            assert running.read_head().status == 200
            assert live.chat(key, quick).status == 429
        wait_until(lambda: live.chat(key, quick).status == 200)


def test_refused_or_failed_call_releases_its_slot(
    live: Server, limited: Callable[..., str], serve_model: Serve
) -> None:
    key = limited(parallel_requests=1)
    for model, status in (
        ("nobody/knows", 404),
        (serve_model("status:500"), 500),
        (serve_model("hang_up"), 502),
        (serve_model("redirect:302"), 502),
    ):
        for _ in range(3):
            assert live.chat(key, model).status == status


def test_slots_of_a_killed_worker_are_released_when_its_lease_ends(
    own_server: OwnServer, limited: Callable[..., str], serve_model: Serve
) -> None:
    server = own_server(workers=2)
    key = limited(parallel_requests=1)
    endless, quick = serve_model("endless"), serve_model("count:3,5")
    with server.connect() as running:
        running.chat(key, endless, stream=True)
        assert running.read_head().status == 200
        wait_until(Lease.objects.exists)
        assert server.chat(key, quick).status == 429
        for pid in server.workers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: _status(server, key, quick) in {429, 200})  # A new worker answers.
        passed = timedelta(seconds=LEASE_SECONDS)
        Lease.objects.update(renewed_at=F("renewed_at") - passed)
        assert server.chat(key, quick).status == 200


def _status(server: Server, key: str, model: str) -> int:
    try:
        return server.chat(key, model).status
    except OSError:
        return 0  # Gunicorn is starting new workers.


def test_team_limit_is_shared_by_all_its_keys(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    Team.objects.update(limits=Limits(requests_per_day=3))
    model = serve_model("count:3,5")
    keys = [issue(alice, str(number))[1] for number in range(4)]
    assert [live.chat(key, model).status for key in keys] == [200, 200, 200, 429]
    refused = live.chat(keys[0], model)
    assert "this API key's team" in refused.json()["error"]["message"]


def test_limit_is_read_from_the_key_for_each_request(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    model = serve_model("count:3,5")
    assert live.chat(text, model).status == 200
    ApiKey.objects.filter(pk=key.pk).update(limits=Limits(requests_per_day=1))
    assert [live.chat(text, model).status for _ in range(2)] == [200, 429]
    ApiKey.objects.filter(pk=key.pk).update(limits=Limits())
    assert live.chat(text, model).status == 200


@pytest.mark.any_database
def test_requests_without_a_key_change_no_counter(
    live: Server, limited: Callable[..., str]
) -> None:
    key = limited(requests_per_minute=5)
    for bad in (key[:-1] + "!", "sk-kp-" + "0" * 46, ""):
        for _ in range(10):
            assert live.chat(bad, "a").status == 401
    assert not windows().exists()
    assert json.loads(json.dumps(live.chat(key, "a").json()))["error"]["code"] == "model_not_found"
