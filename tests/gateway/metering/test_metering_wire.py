"""Recorded usage equals what the model server served, however the calls ended."""

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta

import aiohttp
import pytest
from django.db.models import QuerySet, Sum
from django.utils import timezone

from keyportal.audit.models import Tombstone
from keyportal.gateway.metering.estimates import BYTES_PER_TOKEN
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from keyportal.usage.models import (
    Call,
    EndRequest,
    NetworkUse,
    RunningCalls,
    UsageDay,
    UsageHour,
    UsageMinute,
)
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import CHAT, Server, chat_body, wait_until

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]
CALLS = 600
AT_ONCE = 50


def calls_of(*keys: ApiKey) -> QuerySet[Call]:
    """A shared server may still write the usage of other tests."""
    return Call.objects.filter(public_id__in=[key.public_id for key in keys])


class Mix:
    """Many clients with calls of several kinds. Records how the calls ended."""

    def __init__(self, server: Server, keys: list[str], models: dict[str, str]) -> None:
        self._url = server.url + CHAT
        self._keys = keys
        self._models = models
        self.statuses: Counter[int] = Counter()
        self.kinds: Counter[str] = Counter()
        self.events_of_cut = 0

    async def run(self, number: int) -> None:
        chosen = random.Random(1)
        kinds = chosen.choices(list(self._models), weights=[4, 4, 1, 1], k=number)
        waiting = iter(list(enumerate(kinds)))
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(self._client(session, waiting) for _ in range(AT_ONCE)))

    async def _client(self, session: aiohttp.ClientSession, waiting: object) -> None:
        for number, kind in waiting:  # type: ignore[attr-defined]
            headers = {"Authorization": f"Bearer {self._keys[number % len(self._keys)]}"}
            body = chat_body(self._models[kind], stream=kind in {"stream", "cut"})
            async with session.post(self._url, json=body, headers=headers) as answer:
                self.statuses[answer.status] += 1
                self.kinds[kind] += 1
                if kind == "cut":
                    # Read the first events, then close the connection.
                    self.events_of_cut += (await answer.content.readany()).count(b"data:")
                    answer.close()
                else:
                    await answer.read()


def test_hundreds_of_mixed_calls_are_counted_as_the_upstream_served_them(
    live: Server,
    alice: User,
    bob: User,
    issue: Issue,
    serve_model: Serve,
    fake: FakeUpstream,
) -> None:
    (first, one), (second, other) = issue(alice, "a"), issue(bob, "b")
    models = {
        "whole": serve_model("count:12,5"),
        "stream": serve_model("count:7,9"),
        "cut": serve_model("endless:0.001"),
        "fail": serve_model("status:500"),
    }
    mix = Mix(live, [one, other], models)
    asyncio.run(mix.run(CALLS))
    wait_until(lambda: calls_of(first, second).count() == CALLS)
    assert mix.statuses == {200: CALLS - mix.kinds["fail"], 500: mix.kinds["fail"]}
    assert len(fake.reported_usage) == mix.kinds["whole"] + mix.kinds["stream"]
    public_ids = [first.public_id, second.public_id]
    for table in (UsageMinute, UsageHour, UsageDay):
        counted = {
            row["model"]: (row["n"], row["f"], row["p"], row["c"])
            for row in table.objects.filter(public_id__in=public_ids)
            .values("model")
            .annotate(
                n=Sum("requests"),
                f=Sum("failures"),
                p=Sum("prompt_tokens"),
                c=Sum("completion_tokens"),
            )
        }
        told = {
            (12, 5): counted.pop(models["whole"]),
            (7, 9): counted.pop(models["stream"]),
        }
        for (prompt, completion), row in told.items():
            served = fake.reported_usage.count((prompt, completion))
            assert row == (served, 0, prompt * served, completion * served)
        failed = mix.kinds["fail"]
        assert counted.pop(models["fail"]) == (failed, failed, 0, 0)
        requests, failures, _, completion = counted.pop(models["cut"])
        # Without reported usage it is estimated from the events that passed, each of which has at
        # least two bytes of text. These calls count as failures, because their clients
        # disconnected.
        assert (requests, failures) == (mix.kinds["cut"], mix.kinds["cut"])
        assert completion >= 2 * mix.events_of_cut / BYTES_PER_TOKEN
        assert not counted
    days = UsageDay.objects.filter(public_id__in=public_ids)
    assert days.aggregate(n=Sum("estimated_requests"))["n"] == mix.kinds["cut"]
    assert calls_of(first, second).filter(is_estimated=True).count() == mix.kinds["cut"]


@pytest.mark.any_database
def test_hidden_usage_event_does_not_reach_the_caller(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    _, key = issue(alice)
    model = serve_model("count:7,3")
    silent = live.chat(key, model, stream=True).body
    told = live.chat(key, model, stream=True, stream_options={"include_usage": True}).body
    assert b"usage" not in silent
    assert silent == told.replace(told.split(b"\n\n")[3] + b"\n\n", b"")
    assert b'"completion_tokens": 3' in told
    assert silent.endswith(b"data: [DONE]\n\n")
    for received in fake.received:
        assert json.loads(received.body)["stream_options"] == {"include_usage": True}


@pytest.mark.any_database
def test_a_graceful_stop_loses_nothing(
    own_server: OwnServer, alice: User, issue: Issue, serve_model: Serve
) -> None:
    server = own_server()
    key, text = issue(alice)
    model = serve_model("count:3,5")
    for _ in range(20):
        server.chat(text, model)
    server.stop()
    assert calls_of(key).count() == 20
    days = UsageDay.objects.filter(public_id=key.public_id)
    assert days.aggregate(n=Sum("requests"))["n"] == 20


def test_a_kill_loses_the_last_second_at_most(
    own_server: OwnServer, alice: User, issue: Issue, serve_model: Serve
) -> None:
    server = own_server()
    key, text = issue(alice)
    model = serve_model("count:3,5")
    for _ in range(5):
        server.chat(text, model)
    wait_until(lambda: calls_of(key).count() == 5)
    server.chat(text, model)
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    time.sleep(0.5)
    assert calls_of(key).count() in {5, 6}


def test_call_row_describes_the_call(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    model = serve_model("stall:0.3")
    answer = live.request(
        "POST", CHAT, key=text, body=chat_body(model), headers={"User-Agent": "tests/1"}
    )
    wait_until(calls_of(key).exists)
    call = calls_of(key).get()
    assert call.request_id == answer.headers["x-request-id"]
    assert (call.team_slug, call.public_id, call.owner_id) == (
        key.team.slug,
        key.public_id,
        alice.pk,
    )
    assert (call.endpoint, call.model, call.status) == ("/chat/completions", model, 200)
    assert (call.address, call.user_agent) == ("127.0.0.1", "tests/1")
    assert call.first_byte_ms is not None
    assert 300 <= call.first_byte_ms <= call.duration_ms < 30_000
    assert timezone.now() - call.started_at < timedelta(seconds=60)
    assert call.is_estimated


def test_refusal_of_a_valid_key_is_a_call_and_bad_key_is_none(
    live: Server, alice: User, issue: Issue
) -> None:
    key, text = issue(alice)
    live.chat(text, "nobody/knows")
    live.chat("sk-kp-nonsense", "nobody/knows")
    live.request("GET", "/v1/models", key=text)
    wait_until(calls_of(key).exists)
    time.sleep(0.5)
    call = calls_of(key).get()
    assert (call.status, call.model, call.prompt_tokens) == (404, "", 0)


def test_listing_models_is_no_call_but_its_network_is_stored(
    live: Server, alice: User, issue: Issue
) -> None:
    looked, asked = issue(alice, "looked"), issue(alice, "asked")
    assert live.request("GET", "/v1/models", key=looked[1]).status == 200
    assert live.request("GET", "/v1/key", key=asked[1]).status == 200
    for key, _ in (looked, asked):
        looks = NetworkUse.objects.filter(public_id=key.public_id, team_slug=key.team.slug)
        wait_until(looks.exists)
        assert looks.get().network == "127.0.0.0/24"
        assert not calls_of(key).exists()


def test_deletion_receipt_shows_last_use_and_later_refusals(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    endless = serve_model("endless")
    with live.connect() as running:
        running.chat(text, endless, stream=True)
        assert running.read_head().status == 200
        key.revoke(actor=alice)
        for _ in range(3):
            assert live.chat(text, endless).status == 401
        wait_until(lambda: Tombstone.objects.get().ended_calls == 1)
    wait_until(lambda: Tombstone.objects.get().refused_requests == 3)
    receipt = Tombstone.objects.get()
    assert receipt.last_used_at is not None
    assert receipt.last_used_at <= receipt.deleted_at + timedelta(seconds=1)
    assert receipt.last_used_address == "127.0.0.1"


def test_calls_in_flight_are_listed_and_admin_can_end_one(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    endless = serve_model("endless")
    with live.connect() as first, live.connect() as second:
        for one in (first, second):
            one.chat(text, endless, stream=True)
            assert one.read_head().status == 200

        def listed_calls() -> list[dict[str, object]]:
            rows = RunningCalls.objects.values_list("calls", flat=True)
            return [call for calls in rows for call in calls if call["public_id"] == key.public_id]

        wait_until(lambda: len(listed_calls()) == 2)
        call = listed_calls()[0]
        assert call["public_id"] == key.public_id
        assert call["model"] == endless
        assert call["address"] == "127.0.0.1"
        wait_until(lambda: all(int(str(one["tokens"])) > 5 for one in listed_calls()))
        # A call of another team with the same id is not affected.
        EndRequest.objects.create(call_id=str(listed_calls()[1]["id"]), team_slug="u-0000000000cc")
        EndRequest.objects.create(call_id=str(call["id"]), team_slug=key.team.slug)
        wait_until(lambda: len(listed_calls()) == 1)
        time.sleep(2)
        assert [one["id"] != call["id"] for one in listed_calls()] == [True]
    wait_until(lambda: not listed_calls())
    wait_until(Call.objects.filter(request_id=call["request_id"]).exists)
    ended = Call.objects.get(request_id=call["request_id"])
    assert ended.status == 499
    assert ended.is_estimated
    assert ended.completion_tokens > 5
