"""The body of a call as it is read: media types, codings, limits of size and time."""

import asyncio

import pytest
from pytest_django import Settings

from keyportal.gateway.errors import BodyTooLarge, SlowBody, UnsupportedMediaType
from keyportal.gateway.relay import request_body as module
from keyportal.gateway.relay.request_body import open_body, read_body
from keyportal.http.turns import Turns
from keyportal.http.types import Headers
from tests.support.asgi import Client, scope, unlimited

pytestmark = pytest.mark.any_database
JSON = (b"content-type", b"application/json")


def read(client: Client, *headers: tuple[bytes, bytes]) -> bytes:
    request = scope(method="POST", headers=list(headers or [JSON]))
    return bytes(asyncio.run(read_body(request, client.receive, unlimited, Turns())))


@pytest.mark.parametrize(
    "media_type",
    [
        b"application/json",
        b"application/json; charset=utf-8",
        b"application/json;charset=UTF-8",
        b"Application/JSON",
        b" application/json ",
        b"application/vnd.api+json; charset=utf-8",
        b"text/plain",
        b"text/plain;charset=UTF-8",
        b"application/x-www-form-urlencoded",
        b"",
    ],
)
def test_json_is_accepted(media_type: bytes) -> None:
    assert read(Client(b"{}"), (b"content-type", media_type)) == b"{}"


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-type", b"text/html")],
        [(b"content-type", b"application/octet-stream")],
        [(b"content-type", b"application/xml")],
        [(b"content-type", b"image/svg+json")],
        [(b"content-type", b"multipart/form-data; boundary=application/json")],
        [(b"content-type", b"application/jsonp")],
        [JSON, (b"content-encoding", b"br")],
        [JSON, (b"content-encoding", b"gzip, gzip")],
        [JSON, (b"content-encoding", b"identity, gzip")],
        [JSON, (b"content-encoding", b"gzip"), (b"content-encoding", b"zstd")],
        [JSON, (b"content-encoding", b"gzip"), (b"content-encoding", b"identity")],
    ],
)
def test_other_content_types_are_refused_without_reading_the_body(headers: Headers) -> None:
    client = Client(b"{}")
    with pytest.raises(UnsupportedMediaType):
        read(client, *headers)
    assert client.parts == [b"{}"]


def test_json_needs_no_media_type() -> None:
    assert read(Client(b"{}"), (b"accept", b"text/html")) == b"{}"


def test_form_is_accepted_only_where_a_form_is_expected() -> None:
    for media_type in (b"", b"text/plain", b"application/json"):
        request = scope(method="POST", headers=[(b"content-type", media_type)])
        with pytest.raises(UnsupportedMediaType, match="multipart/form-data"):
            open_body(request, Client().receive, b"multipart/form-data")


def test_identity_encoding_is_accepted() -> None:
    assert read(Client(b"{}"), JSON, (b"content-encoding", b"identity")) == b"{}"


def test_chunks_are_joined() -> None:
    assert read(Client(b'{"a":', b"", b" 1", b"}")) == b'{"a": 1}'


def test_too_large_content_length_is_refused_without_reading(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 10
    client = Client(b"x" * 11)
    with pytest.raises(BodyTooLarge, match="10 bytes"):
        read(client, JSON, (b"content-length", b"11"))
    assert client.parts == [b"x" * 11]


def test_reading_stops_when_the_body_is_too_large(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 10
    client = Client(b"12345", b"67890", b"1", b"never read")
    with pytest.raises(BodyTooLarge):
        read(client)
    assert client.parts == [b"never read"]


def test_body_of_the_maximum_size_is_accepted(settings: Settings) -> None:
    settings.MAX_BODY_BYTES = 10
    assert read(Client(b"12345", b"67890"), JSON, (b"content-length", b"10")) == b"1234567890"


def test_disconnect_ends_the_reading() -> None:
    with pytest.raises(SlowBody):
        read(Client(b'{"a":', None))


def test_body_that_takes_too_long_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY_SECONDS", 0.05)
    with pytest.raises(SlowBody):
        read(Client(*[b"x"] * 100, pause=0.01))
