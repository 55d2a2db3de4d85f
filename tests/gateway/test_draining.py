"""A graceful stop: calls finish, idle connections don't delay it, usage is written."""

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from keyportal.keys.models import ApiKey, Secret
from keyportal.teams.models import User
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.fake_upstream import event
from tests.support.server import CHAT, Connection, Server, head, wait_until

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
OwnServer = Callable[..., Server]
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


def begin_stream(connection: Connection, key: str, name: str) -> None:
    connection.chat(key, name)
    assert connection.read_head().status == 200
    assert connection.chunk().startswith(
        event(0)
    )  # Two events may arrive as one on a busy machine.


def rest(connection: Connection) -> bytes:
    return b"".join(iter(connection.chunk, b""))


def is_refused(server: Server) -> bool:
    """Whether the server no longer listens."""
    try:
        server.connect(timeout=5).close()
    except OSError:
        return True
    return False


def press_ctrl_c(server: Server) -> None:
    """A terminal sends it to the master and to the workers."""
    os.killpg(server.process.pid, signal.SIGINT)


def send_term(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)


@pytest.mark.parametrize("stop", [send_term, press_ctrl_c])
def test_idle_connections_do_not_delay_a_stop(
    own_server: OwnServer, key: str, stop: Callable[[Server], None]
) -> None:
    """A used connection, one that has sent nothing, and one with half a request head."""
    server = own_server(workers=2)
    with server.connect() as used, server.connect() as silent, server.connect() as half:
        used.send_request("GET /v1/models", key)
        assert used.reply().status == 200
        half.send(head("GET /v1/models", key, None)[:20])
        began = time.monotonic()
        stop(server)
        assert server.process.wait(60) == 0
        assert time.monotonic() - began < 30  # An active call may take a minute.
        assert all(connection.is_closed() for connection in (used, silent, half))
    assert "Forcing close" not in server.log


@pytest.mark.parametrize("stop", [send_term, press_ctrl_c])
def test_a_running_stream_finishes(
    own_server: OwnServer,
    key: str,
    serve_model: Serve,
    fake: FakeUpstream,
    stop: Callable[[Server], None],
) -> None:
    server = own_server()
    with server.connect() as connection:
        begin_stream(connection, key, serve_model("wait"))
        stop(server)
        wait_until(lambda: is_refused(server))
        assert server.process.poll() is None
        assert fake.disconnected_at == []
        fake.released.set()
        assert rest(connection) == event(1) + DONE
        assert connection.is_closed()
    assert server.process.wait(60) == 0
    assert Secret.objects.get().last_used_at is not None


def test_call_without_a_response_finishes_with_connection_close(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server = own_server()
    name = serve_model("hold")
    body = json.dumps({"model": name}).encode()
    with server.connect() as waiting, server.connect() as sending:
        waiting.chat(key, name)
        sending.send(head(f"POST {CHAT}", key, len(body)), body[:5])
        wait_until(lambda: fake.received)
        wait_until(lambda: Secret.objects.get().last_used_at)
        send_term(server)
        wait_until(lambda: is_refused(server))
        sending.send(body[5:])
        fake.released.set()
        for connection in (waiting, sending):
            reply = connection.reply()
            assert reply.status == 200
            assert reply.headers["connection"] == "close"
            assert connection.is_closed()
    assert server.process.wait(60) == 0


def test_stream_that_runs_too_long_ends_with_an_error_event(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server = own_server(KEYPORTAL_GRACEFUL_TIMEOUT="12")
    with server.connect() as stream, server.connect() as waiting:
        begin_stream(stream, key, serve_model("endless"))
        waiting.chat(key, serve_model("stall"))
        wait_until(lambda: len(fake.received) == 2)
        send_term(server)
        last = rest(stream).rstrip(b"\n").split(b"\n\n")[-1]
        error = json.loads(last.removeprefix(b"data: "))["error"]
        assert error["code"] == "shutting_down"
        reply = waiting.reply()
        assert (reply.status, reply.code) == (503, "shutting_down")
        assert reply.headers["connection"] == "close"
    assert server.process.wait(60) == 0
    wait_until(lambda: len(fake.disconnected_at) == 2)
    assert Secret.objects.get().last_used_at is not None


def test_requests_are_served_while_a_load_balancer_is_told_to_send_no_more(
    own_server: OwnServer, key: str
) -> None:
    server = own_server(workers=2, KEYPORTAL_DRAIN_SECONDS="60")
    with server.connect() as idle:
        idle.send_request("GET /v1/models", key)
        assert idle.reply().headers.get("connection") != "close"
        send_term(server)

        def is_draining() -> bool:
            """Whether each of many probes, which any worker may answer, says so."""
            replies = [server.request("GET", "/readyz") for _ in range(10)]
            return all(reply.json().get("reason") == "draining" for reply in replies)

        wait_until(is_draining)  # The signal reaches each worker by itself.
        reply = server.request("GET", "/readyz")
        assert (reply.status, reply.headers["connection"]) == (503, "close")

        def is_last() -> bool:
            idle.send_request("GET /v1/models", key)
            reply = idle.reply()
            assert reply.status == 200
            return reply.headers.get("connection") == "close"

        wait_until(is_last)
        assert idle.is_closed()
    server.kill()  # The end of draining is a minute away.


@pytest.mark.parametrize("stop", [send_term, press_ctrl_c])
def test_request_on_a_connection_that_was_made_before_the_stop_is_answered(
    own_server: OwnServer, key: str, stop: Callable[[Server], None]
) -> None:
    """A proxy connects and sends its request a moment later; half of a head has arrived too."""
    server = own_server()
    request = head("GET /v1/models", key, None)
    with server.connect() as new, server.connect() as half:
        half.send(request[:20])
        stop(server)
        wait_until(lambda: "Shutting down" in server.log)  # It no longer listens.
        new.send(request)
        half.send(request[20:])
        for connection in (new, half):
            reply = connection.reply()
            assert (reply.status, reply.headers["connection"]) == (200, "close")
            assert connection.is_closed()
    assert server.process.wait(60) == 0


def test_second_ctrl_c_stops_at_once(
    own_server: OwnServer, key: str, serve_model: Serve, fake: FakeUpstream
) -> None:
    server = own_server()
    with server.connect() as connection:
        begin_stream(connection, key, serve_model("wait"))
        press_ctrl_c(server)
        wait_until(lambda: is_refused(server))
        began = time.monotonic()
        press_ctrl_c(server)
        server.process.wait(60)
        assert time.monotonic() - began < 30  # Not after a minute.
        with pytest.raises((EOFError, ConnectionError)):
            rest(connection)
    assert "Traceback" not in server.log


def test_last_use_is_written_at_a_stop(own_server: OwnServer, key: str) -> None:
    server = own_server()
    headers = {"User-Agent": "the-last-call/1.0"}
    assert server.request("GET", "/v1/models", key=key, headers=headers).status == 200
    assert server.stop() == 0
    used = Secret.objects.get()
    assert used.last_used_at is not None
    assert used.last_used_address == "127.0.0.1"
    assert used.last_used_user_agent == "the-last-call/1.0"


def test_a_worker_that_dies_is_replaced(own_server: OwnServer, key: str) -> None:
    server = own_server()
    (worker,) = server.workers()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: server.workers() not in ([], [worker]))
    wait_until(lambda: answers(server, key))


def answers(server: Server, key: str) -> bool:
    try:
        return server.request("GET", "/v1/models", key=key).status == 200
    except OSError:
        return False
