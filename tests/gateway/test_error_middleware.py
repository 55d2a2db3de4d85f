"""ErrorMiddleware: every request has an id, and every error gets a response in one format."""

import asyncio
import gc
import logging
import re
import weakref
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_django import Settings

from keyportal.gateway import error_middleware
from keyportal.gateway.error_middleware import UNAUTHORIZED_DELAY_SECONDS, ErrorMiddleware
from keyportal.gateway.errors import (
    BadRequest,
    GatewayError,
    InternalError,
    InvalidKey,
    UpstreamFailed,
)
from keyportal.http.requests import DRAIN_SECONDS, HTTPS_REQUIRED
from keyportal.http.types import Headers, Message, Receive, Scope, Send
from keyportal.keys import keystring
from tests.support import fake_time
from tests.support.asgi import Client, scope

pytestmark = pytest.mark.any_database

SECRET = "postgresql://user:password@host"
App = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]


def raising(error: Exception) -> App:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    return app


def failing_after_start(media_type: bytes, error: Exception) -> App:
    """Starts a response with 200, sends a first part and fails."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", media_type)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        raise error

    return app


async def answering(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"fine"})


def serve(app: App, client: Client, headers: Headers | None = None, **more: str) -> Client:
    edge = ErrorMiddleware(app)
    client.seconds = fake_time.run(
        edge(scope(headers=headers, **more), client.receive, client.send)
    )
    return client


def length(size: int) -> Headers:
    return [(b"content-length", str(size).encode())]


def test_error_is_sent_in_json_and_the_connection_stays_open() -> None:
    client = serve(raising(InvalidKey()), Client())
    assert client.status == 401
    assert client.json()["error"]["code"] == "invalid_api_key"
    assert client.headers[b"content-type"] == b"application/json"
    assert client.headers[b"content-length"] == str(len(client.body)).encode()
    assert b"invalid_token" in client.headers[b"www-authenticate"]
    assert b"connection" not in client.headers


@pytest.mark.parametrize("app", [answering, raising(InvalidKey()), raising(ValueError())])
def test_no_browser_guesses_the_type_of_an_answer(app: App) -> None:
    assert serve(app, Client()).headers[b"x-content-type-options"] == b"nosniff"


def test_refused_head_request_has_a_length_and_no_body() -> None:
    client = serve(raising(InvalidKey()), Client(), method="HEAD")
    assert int(client.headers[b"content-length"]) > 0
    assert client.body == b""


def test_content_length_of_thousands_of_digits_is_refused() -> None:
    client = serve(raising(InvalidKey()), Client(b"{}"), [(b"content-length", b"9" * 5000)])
    assert client.status == 401


def test_invalid_keys_are_answered_at_a_limited_rate() -> None:
    edge = ErrorMiddleware(raising(InvalidKey()))

    async def fire() -> None:
        for _ in range(20):
            client = Client()
            await edge(scope(), client.receive, client.send)
            assert client.status == 401

    assert fake_time.run(fire()) == pytest.approx(20 * UNAUTHORIZED_DELAY_SECONDS)


def test_every_response_has_its_own_id() -> None:
    answers = [serve(raising(InvalidKey()), Client()) for _ in range(50)]
    answers += [serve(answering, Client()) for _ in range(50)]
    ids = {answer.headers[b"x-request-id"] for answer in answers}
    assert len(ids) == 100
    assert all(one.startswith(b"req_") for one in ids)


@pytest.mark.parametrize(
    "given", [b"mine", b"0af7651916cd43dd8448eb211c80319c", b"req_A-1.b:2+c_3=@", b"x" * 128]
)
def test_valid_request_id_of_the_client_is_used(given: bytes) -> None:
    for app in (answering, raising(InvalidKey())):
        client = serve(app, Client(), [(b"x-request-id", given)])
        assert client.headers[b"x-request-id"] == given


@pytest.mark.parametrize(
    "given",
    [b"", b" ", b"two words", b"x" * 129, b"a\r\nset-cookie: b=c", b"a\n", b"\x00", b"\xc3\xa9",
     b'"quoted"', b"<script>", b"a,b", b"a;b", b"%0d%0a", b"${jndi:ldap}", b"a\\b",
     b"a/b", b"..", b".", b"-a"],
)  # fmt: skip
def test_dangerous_request_id_is_replaced(given: bytes) -> None:
    """It is written to logs, tables and the upstream's headers."""
    client = serve(answering, Client(), [(b"x-request-id", given)])
    assert re.fullmatch(rb"req_[0-9a-f]{24}", client.headers[b"x-request-id"])


def test_key_string_in_a_request_id_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    key = keystring.generate().text
    for given in (key, f"x{key}", f"trace-{key}-1", key[:30]):
        client = serve(raising(RuntimeError()), Client(), [(b"x-request-id", given.encode())])
        assert re.fullmatch(rb"req_[0-9a-f]{24}", client.headers[b"x-request-id"])
    assert key[:20] not in caplog.text


def test_two_request_ids_are_ignored() -> None:
    client = serve(answering, Client(), [(b"x-request-id", b"a"), (b"x-request-id", b"b")])
    assert client.headers[b"x-request-id"].startswith(b"req_")


@pytest.mark.parametrize("app", [answering, raising(UpstreamFailed())])
def test_response_has_its_processing_time(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([7.0, 7.0505])
    clock = SimpleNamespace(monotonic=moments.__next__)
    monkeypatch.setattr(error_middleware, "time", clock)
    assert serve(app, Client()).headers[b"openai-processing-ms"] == b"50"


def test_response_to_a_refused_key_has_no_processing_time() -> None:
    """Attack: the time shows whether a key was looked up in the database."""
    client = serve(raising(InvalidKey()), Client())
    assert b"openai-processing-ms" not in client.headers


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens", "/v1/messages/x"])
def test_anthropics_paths_have_anthropics_format(path: str) -> None:
    client = serve(raising(InvalidKey()), Client(), [(b"x-request-id", b"mine")], path=path)
    assert client.headers[b"request-id"] == client.headers[b"x-request-id"] == b"mine"
    said = client.json()
    assert (said["type"], said["request_id"]) == ("error", "mine")
    assert set(said["error"]) == {"type", "message"}
    assert said["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("path", ["/v1/messagesx", "/v1/Messages", "/messages", "/v1/responses"])
def test_other_paths_have_openais_format(path: str) -> None:
    client = serve(raising(InvalidKey()), Client(), path=path)
    assert b"request-id" not in client.headers
    assert set(client.json()) == {"error"}


def test_failed_stream_on_an_anthropic_path_ends_with_anthropics_event() -> None:
    app = failing_after_start(b"text/event-stream", UpstreamFailed())
    client = serve(app, Client(), [(b"x-request-id", b"mine")], path="/v1/messages")
    expected = UpstreamFailed().event("mine", is_anthropic=True)
    assert client.body == b"data: 1\n\n" + expected
    assert expected.startswith(b'event: error\ndata: {"type":"error"')


def test_small_body_is_read_before_the_error() -> None:
    client = serve(raising(InvalidKey()), Client(b"1", b"2", b"3"), length(3))
    assert client.status == 401
    assert not client.parts
    assert b"connection" not in client.headers


class Watched(Client):
    """Records when the response started, and how much of the body had been read by then."""

    left_at_answer = -1
    seconds_to_answer = -1.0

    async def send(self, message: object) -> None:
        if self.left_at_answer < 0:
            self.left_at_answer = len(self.parts)
            self.seconds_to_answer = asyncio.get_running_loop().time()
        await super().send(message)  # type: ignore[arg-type]  # a message


@pytest.mark.parametrize(
    "headers",
    [length(10_000_000), [(b"transfer-encoding", b"chunked")], [(b"content-length", b"lots")]],
)
def test_large_body_is_drained_after_the_error(headers: Headers) -> None:
    client = Watched(*[b"x" * 1000] * 20)
    serve(raising(InvalidKey()), client, headers)
    assert client.status == 401
    assert client.left_at_answer == 20
    assert not client.parts
    assert client.headers[b"connection"] == b"close"


@pytest.mark.parametrize(("size", "times"), [(10, 2), (10_000_000, 1)])
def test_endless_body_is_drained_for_a_limited_time(size: int, times: int) -> None:
    """This one would take ten minutes. What is announced as small is read before and after the
    response."""
    client = serve(raising(InvalidKey()), Client(*[b"x"] * 60_000, pause=0.01), length(size))
    assert client.seconds == pytest.approx(times * DRAIN_SECONDS + UNAUTHORIZED_DELAY_SECONDS)
    assert client.status == 401
    assert client.parts
    assert client.headers[b"connection"] == b"close"


def test_client_that_expects_100_continue_gets_the_error_at_once() -> None:
    """Without waiting for a body that is never sent."""
    client = Watched(b"x", pause=60)
    serve(raising(InvalidKey()), client, [*length(1), (b"expect", b"100-continue")])
    assert client.status == 401
    assert client.headers[b"connection"] == b"close"
    assert client.seconds_to_answer == pytest.approx(UNAUTHORIZED_DELAY_SECONDS)


def test_disconnect_during_an_error_response_is_ignored() -> None:
    client = serve(raising(InvalidKey()), Client(b"x", None), length(10))
    assert not client.parts


def test_body_that_was_read_is_not_drained() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        raise InvalidKey

    client = serve(app, Client(b"{}"), length(10_000_000))
    assert client.seconds == pytest.approx(UNAUTHORIZED_DELAY_SECONDS)
    assert b"connection" not in client.headers


@pytest.mark.parametrize("error", [UpstreamFailed(), RuntimeError(SECRET)])
def test_failed_stream_ends_with_an_error_event(error: Exception) -> None:
    client = serve(failing_after_start(b"text/event-stream; charset=utf-8", error), Client())
    expected = error if isinstance(error, GatewayError) else InternalError()
    assert client.status == 200
    assert client.body == b"data: 1\n\n" + expected.event()
    assert not client.messages[-1].get("more_body")
    assert SECRET.encode() not in client.body


@pytest.mark.parametrize("error", [UpstreamFailed(), RuntimeError(SECRET)])
def test_other_failed_response_raises_to_the_server(error: Exception) -> None:
    client = Client()
    with pytest.raises(Exception, match=r".+") as caught:
        serve(failing_after_start(b"application/json", error), client)
    assert error in (caught.value, caught.value.__context__)
    assert client.body == b"data: 1\n\n"
    assert client.messages[-1]["more_body"]


def test_unexpected_exception_is_a_500_without_details_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = serve(raising(RuntimeError(SECRET)), Client())
    assert client.status == 500
    assert client.json()["error"]["code"] == "internal_error"
    assert SECRET.encode() not in client.body
    assert SECRET in caplog.text
    assert client.headers[b"x-request-id"].decode() in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


def test_plain_http_is_refused_if_the_public_address_is_https(settings: Settings) -> None:
    settings.IS_HTTPS = True
    client = serve(answering, Client())
    assert client.status == 426
    assert client.headers[b"upgrade"] == b"TLS/1.2, HTTP/1.1"
    assert b"location" not in client.headers
    assert client.json()["error"]["code"] == "https_required"
    assert client.json()["error"]["message"] == HTTPS_REQUIRED
    assert serve(answering, Client(), scheme="https").status == 200


def test_plain_http_is_accepted_if_the_public_address_is_http(settings: Settings) -> None:
    settings.IS_HTTPS = False
    assert serve(answering, Client()).status == 200


def test_response_ends_after_the_rest_of_its_request() -> None:
    """The server closes the connection at the end, which resets it if the client still sends."""
    client = Watched(*[b"x" * 1000] * 20)
    serve(answering, client, length(20_000))
    *_, answer, end = client.messages
    assert (answer["body"], answer["more_body"]) == (b"fine", True)
    assert end == {"type": "http.response.body", "body": b""}
    assert not client.parts


def test_cancellation_is_passed_on() -> None:
    async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    client = Client()
    with pytest.raises(asyncio.CancelledError):
        serve(cancelled, client)
    assert not client.messages


def test_error_keeps_no_body_in_memory() -> None:
    """Not while it is sent, nor later: its traceback has the frames of all that was called."""
    references: list[weakref.ref[object]] = []

    class Body(bytearray):
        pass

    async def read(_scope: Scope, _receive: Receive, _send: Send) -> None:
        body = Body(100)
        references.append(weakref.ref(body))
        try:
            b"\xff".decode()
        except UnicodeDecodeError:
            raise BadRequest from None

    class Watching(Client):
        async def send(self, message: Message) -> None:
            assert references[0]() is None
            await super().send(message)

    gc.disable()
    try:
        assert serve(read, Watching()).status == 400
    finally:
        gc.enable()
