"""Headers that Django can't read fail no request."""

import asyncio

import pytest

from keyportal import asgi
from tests.asgi import Client, scope

UNREADABLE = (b"text/html;a*=none''x", b"text/html;charset=hex")


def ask(path: str, **more: object) -> Client:
    client = Client(b"{}")
    asked = scope(path, "POST", query_string=b"a=%ff", **more)  # type: ignore[arg-type]  # headers
    asyncio.run(asgi.application(asked, client.receive, client.send))
    return client


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", [b"content-type", b"accept"])
@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize(
    ("path", "status"),
    [("/leaks/report", 400), ("/api/v1/keys", 401), ("/accounts/login/", 403)],
)
def test_a_header_that_cannot_be_read_fails_no_request(
    path: str, status: int, name: bytes, value: bytes
) -> None:
    headers = [(b"host", b"testserver"), (b"content-length", b"2"), (name, value)]
    assert ask(path, headers=headers).status == status
