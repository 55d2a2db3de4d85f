"""The head of an answer, against gunicorn's own."""

from types import SimpleNamespace

import pytest
from gunicorn.asgi.protocol import ASGIProtocol
from gunicorn.config import Config

from keyportal.asgi_types import Headers
from keyportal.protocol import Protocol


def head(
    kind: type[ASGIProtocol], status: int, headers: Headers, version: tuple[int, int]
) -> bytes:
    worker = SimpleNamespace(cfg=Config(), log=None, asgi=None)
    protocol = kind(worker)
    request = SimpleNamespace(version=version, must_close=False)
    kind._send_response_start(protocol, status, headers, request)
    return bytes(protocol._response_buffer)


@pytest.mark.parametrize("version", [(1, 0), (1, 1)])
@pytest.mark.parametrize("status", [200, 204, 404, 429])
@pytest.mark.parametrize(
    "headers",
    [[], [(b"Content-Type", b"text/html"), (b"set-cookie", b"a=b"), (b"set-cookie", b"c=\xe9")]],
    ids=["none", "some"],
)
def test_a_head_has_the_lines_of_gunicorns_own(
    status: int, headers: Headers, version: tuple[int, int]
) -> None:
    theirs = head(ASGIProtocol, status, headers, version)
    ours = head(Protocol, status, headers, version)
    assert ours.endswith(b"\r\n\r\n")
    assert ours.count(b"\r\n\r\n") == 1
    assert ours.split(b"\r\n")[0] == theirs.split(b"\r\n")[0]
    assert sorted(ours.split(b"\r\n")) == sorted(theirs.split(b"\r\n"))


def test_the_time_in_a_head_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    dates = iter([b"Date: Sat, 28 Nov 2026 12:00:00 GMT\r\n", b"Date: now\r\n"])
    monkeypatch.setattr("gunicorn.asgi.protocol._get_cached_date_header", lambda: next(dates))
    assert b"\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\n" in head(Protocol, 200, [], (1, 1))
    assert b"\r\nDate: now\r\n" in head(Protocol, 200, [], (1, 1))
