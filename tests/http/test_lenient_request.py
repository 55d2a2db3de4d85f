"""Headers and queries that Django can't read fail no request."""

import asyncio
from io import BytesIO

import pytest

from keyportal import asgi
from keyportal.http.django_handler import LenientASGIRequest
from tests.support.asgi import Client, scope

at_every_door = pytest.mark.parametrize(
    ("path", "status"),
    [("/leaks/report", 400), ("/api/v1/keys", 401), ("/accounts/login/", 403)],
)
UNREADABLE = (b"text/html;a*=none''x", b"text/html;charset=hex")


def ask(path: str, query: bytes = b"a=%ff", **more: object) -> Client:
    client = Client(b"{}")
    asked = scope(path, "POST", query_string=query, **more)  # type: ignore[arg-type]  # headers
    asyncio.run(asgi.application(asked, client.receive, client.send))
    return client


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", [b"content-type", b"accept"])
@pytest.mark.parametrize("value", UNREADABLE)
@at_every_door
def test_a_header_that_cannot_be_read_fails_no_request(
    path: str, status: int, name: bytes, value: bytes
) -> None:
    headers = [(b"host", b"testserver"), (b"content-length", b"2"), (name, value)]
    assert ask(path, headers=headers).status == status


@pytest.mark.django_db(transaction=True)
@at_every_door
def test_a_query_that_is_no_utf_8_fails_no_request(
    path: str, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Django would answer with an empty page, of whatever it is asked, and log a traceback."""
    answer = ask(path, b"a=\xe9", headers=[(b"host", b"testserver"), (b"content-length", b"2")])
    assert answer.status == status
    assert answer.body
    assert not [row for row in caplog.records if row.exc_info]


def test_bytes_in_a_query_are_what_they_are_when_they_are_escaped() -> None:
    def read(query: bytes) -> dict[str, object]:
        return dict(LenientASGIRequest(scope("/", query_string=query), BytesIO()).GET)

    assert read(b"a=\xe9&b=\xc3\xa9+%26") == read(b"a=%E9&b=%C3%A9+%26")
    assert read(b"b=\xc3\xa9+%26") == {"b": ["é &"]}
