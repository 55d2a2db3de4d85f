"""Headers that Django can't parse fail no request."""

import asyncio

import pytest

from keyportal import asgi
from keyportal.http.types import Headers
from tests.support.asgi import Client, scope

UNREADABLE = (b"text/html;a*=none''x", b"text/html;charset=hex")


def post(path: str, headers: Headers) -> Client:
    client = Client(b"{}")
    request = scope(path, "POST", query_string=b"a=%ff", headers=headers)
    asyncio.run(asgi.application(request, client.receive, client.send))
    return client


@pytest.mark.any_database
@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", [b"content-type", b"accept"])
@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize(
    ("path", "status"),
    [("/leaks/report", 400), ("/api/v1/keys", 401), ("/accounts/login/", 403)],
)
def test_unreadable_header_fails_no_request(
    path: str, status: int, name: bytes, value: bytes
) -> None:
    headers = [(b"host", b"testserver"), (b"content-length", b"2"), (name, value)]
    assert post(path, headers).status == status
