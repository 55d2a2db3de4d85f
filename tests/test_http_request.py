"""Our request against gunicorn's own, of the same bytes."""

from types import SimpleNamespace

import pytest
from gunicorn.asgi.parser import CallbackRequest
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config
from gunicorn_h1c import H1CProtocol

from keyportal.http_request import HTTPRequest
from keyportal.worker import ReadOnce

SERVER, CLIENT, STATE = ("127.0.0.1", 8000), ("192.0.2.7", 5), {"kept": True}
COMPARED = (
    *("method", "uri", "path", "raw_path", "query", "fragment", "version", "scheme"),
    *("headers", "headers_bytes", "content_length", "chunked", "proxy_protocol_info"),
)
REQUESTS = {
    "plain": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "query": b"GET /keys/?page=2&name=%41?b HTTP/1.1\r\nHost: a\r\n\r\n",
    "escaped": b"GET /v1/models/a%20b%2Fc%3Fd HTTP/1.1\r\nHost: a\r\n\r\n",
    "not utf-8": b"GET /%ff%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty query": b"GET /? HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute": b"GET http://a/v1/key HTTP/1.1\r\nHost: a\r\n\r\n",
    "headers": b"GET / HTTP/1.1\r\nHOST: a\r\nX-Two: b\r\nx-two:  c \r\nX-Raw: \xe9\r\n\r\n",
    "body": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-Continue\r\n\r\n",
    "chunked": b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    "close": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "close, then not": (
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Close\r\nConnection: keep-alive\r\n\r\n"
    ),
    "close, and more": (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nConnection: x\r\n\r\n"),
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "old": b"GET / HTTP/1.0\r\n\r\n",
    "old, kept alive": b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
}


def parsed(raw: bytes) -> H1CProtocol:
    parser = H1CProtocol(
        on_headers_complete=lambda: False, on_body=len, on_message_complete=lambda: None
    )
    parser.feed(raw)
    return parser


@pytest.mark.parametrize("raw", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("is_ssl", [False, True])
def test_it_says_what_gunicorns_own_says(raw: bytes, is_ssl: bool) -> None:
    parser = parsed(raw)
    theirs = CallbackRequest.from_parser(parser, is_ssl=is_ssl)
    ours = HTTPRequest.from_parser(parser, is_ssl=is_ssl)
    config = Config()
    config.set("root_path", "/below")
    worker = SimpleNamespace(cfg=config, log=None, asgi=None, state=STATE)
    assert ours.scope(SERVER, CLIENT, STATE, "/below") == ASGIProtocol(worker)._build_http_scope(
        theirs, SERVER, CLIENT
    )
    for name in COMPARED:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.should_close() == theirs.should_close()


@pytest.mark.parametrize("version", [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/1.10", b"HTTP/1"])
def test_no_other_version_comes_through_the_parser(version: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parsed(b"GET / " + version + b"\r\nHost: a\r\n\r\n")


@pytest.mark.parametrize("name", [b"host", b"content-length", b"content-type"])
def test_what_may_stand_there_once_comes_once_through_the_parser(name: bytes) -> None:
    twice = b"%b: 1\r\n%b: 1\r\n" % (name, name.title())
    host = b"" if name == b"host" else b"Host: a\r\n"
    with pytest.raises(ValueError, match=r".+"):
        parsed(b"POST / HTTP/1.1\r\n" + host + twice + b"\r\n")


def test_a_setting_is_looked_up_once() -> None:
    asked = []

    class Settings:
        def __getattr__(self, name: str) -> str:
            asked.append(name)
            return name.upper()

    settings = ReadOnce(Settings())
    assert [settings.keepalive, settings.timeout, settings.keepalive] == [
        "KEEPALIVE",
        "TIMEOUT",
        "KEEPALIVE",
    ]
    assert asked == ["keepalive", "timeout"]
