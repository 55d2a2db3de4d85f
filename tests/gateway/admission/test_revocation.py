"""An invalidated key is refused from the next request on, on every worker."""

import asyncio
import itertools
import json
import socket
import time
from collections.abc import Callable
from datetime import timedelta

import aiohttp
import pytest
from django.db import connection as database
from django.test import Client
from django.utils import timezone

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Membership, Team, User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.load import LoadGenerator
from tests.support.server import CHAT, Connection, Server, chat_body, head, wait_until

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
STREAMS = 200


def test_no_request_is_served_after_the_deletion(live: Server, alice: User, issue: Issue) -> None:
    """None of hundreds of requests that start after the portal has answered."""
    api_key, key = issue(alice)
    client = Client()
    client.force_login(alice)

    def delete() -> None:
        path = f"/teams/{api_key.team.slug}/keys/{api_key.public_id}/delete/"
        assert client.post(path).status_code == 302

    load = LoadGenerator(live, head("GET /v1/models", key, None))
    later = load.during(delete, before=50, after=300)
    assert set(later) == {401}
    assert set(load.statuses_since(0)) == {200, 401}


def disable_key(key: ApiKey) -> None:
    ApiKey.objects.filter(pk=key.pk).update(disabled_at=timezone.now(), disabled_by="owner")


def expire_key(key: ApiKey) -> None:
    ApiKey.objects.filter(pk=key.pk).update(expires_at=timezone.now() - timedelta(seconds=1))


def deactivate_owner(key: ApiKey) -> None:
    User.objects.filter(pk=key.owner_id).update(is_active=False)


def end_membership(key: ApiKey) -> None:
    Membership.objects.filter(user=key.owner, team=key.team).delete()


def deactivate_team(key: ApiKey) -> None:
    Team.objects.filter(pk=key.team_id).update(is_active=False)


def narrow_key(key: ApiKey) -> None:
    ApiKey.objects.filter(pk=key.pk).update(allowed_models=["public/other"])


@pytest.mark.parametrize(
    ("take_away", "status"),
    [
        (disable_key, 401),
        (expire_key, 401),
        (deactivate_owner, 401),
        (end_membership, 401),
        (deactivate_team, 401),
        (narrow_key, 403),
    ],
)
def test_every_change_applies_to_the_next_request(
    live: Server,
    alice: User,
    bob: User,
    issue: Issue,
    model: ServedModel,
    take_away: Callable[[ApiKey], None],
    status: int,
) -> None:
    api_key, key = issue(bob)
    _, another = issue(alice, "another")
    with live.connect() as one, live.connect() as two:
        for connection in (one, two):
            connection.chat(key, model.name)
            assert connection.reply().status == 200
        take_away(api_key)
        for connection in (one, two) * 5:
            connection.chat(key, model.name)
            assert connection.reply().status == status
        if take_away is not deactivate_team:
            one.chat(another, model.name)
            assert one.reply().status == 200


def test_key_expires_by_the_clock(live: Server, alice: User, issue: Issue) -> None:
    expires_at = timezone.now() + timedelta(seconds=1.5)
    _, key = issue(alice, expires_at=expires_at)
    with live.connect() as connection:
        for _ in itertools.count():
            before = timezone.now()
            connection.send_request("GET /v1/models", key)
            status = connection.reply().status
            if status != 200:
                break
            # An admitted request was admitted before the expiry.
            assert before < expires_at
            time.sleep(0.02)
    assert status == 401
    assert timezone.now() >= expires_at


def test_restored_key_works_again(live: Server, bob: User, issue: Issue, team: Team) -> None:
    """Refusals are not cached either."""
    _, key = issue(bob)
    Team.objects.filter(pk=team.pk).update(is_active=False)
    assert live.request("GET", "/v1/models", key=key).status == 401
    Team.objects.filter(pk=team.pk).update(is_active=True)
    assert live.request("GET", "/v1/models", key=key).status == 200


def test_stream_of_a_deleted_key_is_ended(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    """It ends with an error event, and the model server stops generating. Other streams go on."""
    api_key, key = issue(alice)
    _, another = issue(alice, "another")
    name = serve_model("endless")
    with live.connect() as doomed, live.connect() as safe:
        for connection, sent in ((doomed, key), (safe, another)):
            connection.chat(sent, name)
            connection.read_head()
            connection.chunk()
        api_key.revoke(actor=alice)
        text = b"".join(iter(doomed.chunk, b""))
        last = text.rstrip(b"\n").split(b"\n\n")[-1]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "invalid_api_key"
        wait_until(lambda: len(fake.disconnected_at) == 1)
        assert safe.chunk()


def test_waiting_call_of_a_deleted_key_is_refused(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    """Its response has not started, so it gets the usual 401."""
    api_key, key = issue(alice)
    with live.connect() as connection:
        connection.chat(key, serve_model("stall"))
        wait_until(lambda: fake.received)
        api_key.revoke(actor=alice)
        reply = connection.reply()
        assert (reply.status, reply.code) == (401, "invalid_api_key")
        wait_until(lambda: fake.disconnected_at)
        # The connection stays open for other keys.
        connection.send_request("GET /v1/models")
        assert connection.reply().status == 401


def test_slow_body_of_a_deleted_key_reaches_no_upstream(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    name = serve_model("echo")
    for when in ("within", "at the end"):
        api_key, key = issue(alice, when)
        body = json.dumps({"model": name, "messages": []}).encode()
        with live.connect() as connection:
            connection.send(head(f"POST {CHAT}", key, len(body)), body[:10])
            wait_for_last_use(api_key)  # It has been admitted.
            if when == "at the end":
                time.sleep(1.1)
            api_key.revoke(actor=alice)
            if when == "at the end":
                connection.send(body[10:])
            reply = connection.reply()
            assert (reply.status, reply.code) == (401, "invalid_api_key")
    assert fake.received == []


def wait_for_last_use(key: ApiKey) -> None:
    wait_until(lambda: key.secrets.filter(last_used_at__isnull=False).exists())


def test_slow_body_of_a_valid_key_is_served(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    _, key = issue(alice)
    body = json.dumps({"model": serve_model("echo")}).encode()
    with live.connect() as connection:
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.send(head(f"POST {CHAT}", key, len(body)))
        for start in range(0, len(body), 5):
            connection.send(body[start : start + 5])
            time.sleep(2.2 * 5 / len(body))
        assert connection.reply().status == 200


def test_new_model_can_be_called_at_once(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    """In every worker. A deleted one is unknown in every worker at once."""
    _, key = issue(alice)
    connections = [live.connect() for _ in range(6)]
    statuses: list[set[int]] = []
    try:
        for change in (lambda: None, lambda: serve_model("echo"), ServedModel.objects.all().delete):
            change()
            statuses.append({ask(connection, key) for connection in connections})
    finally:
        for connection in connections:
            connection.close()
    assert statuses == [{404}, {200}, {404}]


def ask(connection: Connection, key: str) -> int:
    connection.chat(key, "u-8105f7322477/echo")
    return connection.reply().status


def test_hundreds_of_streams_of_a_deleted_key_end(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    model = serve_model("endless:0.5")
    tails: list[bytes] = []

    async def stream(session: aiohttp.ClientSession, begun: asyncio.Semaphore) -> None:
        body = {"json": chat_body(model, stream=True)}
        async with session.post(live.url + CHAT, **body) as answer:  # type: ignore[arg-type]
            tail = await answer.content.readany()
            begun.release()
            assert answer.status == 200
            while part := await answer.content.readany():
                tail = part
        tails.append(tail)

    async def delete_midway() -> None:
        begun = asyncio.Semaphore(0)
        headers = {"Authorization": f"Bearer {text}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:
            streams = [asyncio.create_task(stream(session, begun)) for _ in range(STREAMS)]
            for _ in streams:
                await begun.acquire()
            await asyncio.to_thread(_delete, key, alice)
            await asyncio.gather(*streams)

    asyncio.run(asyncio.wait_for(delete_midway(), 200))
    assert len(tails) == STREAMS
    assert all(b"invalid_api_key" in tail for tail in tails)


def _delete(key: ApiKey, alice: User) -> None:
    key.revoke(actor=alice)
    database.close()
