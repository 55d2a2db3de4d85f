"""Room on disk for uploads: all that is declared at once, and else as it arrives."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from keyportal.gateway.errors import TooManyLargeBodies
from keyportal.gateway.relay.request_body import FIRST_BYTES
from keyportal.gateway.relay.upload import MAX_MEMORY_BYTES, Upload
from keyportal.http.turns import Turns
from keyportal.http.types import Headers
from tests.support.asgi import Client, scope

pytestmark = pytest.mark.any_database
START = (
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)
END = b"\r\n--b--\r\n"
FORM = (b"content-type", b"multipart/form-data; boundary=b")


def form(size: int) -> bytes:
    return START + b"x" * (size - len(START) - len(END)) + END


def read(client: Client, reserve: Callable[[int], Awaitable[None]], *headers: Headers) -> Upload:
    request = scope(method="POST", headers=[FORM, *(header for some in headers for header in some)])
    return asyncio.run(Upload.read(request, client.receive, reserve, Turns()))


@pytest.mark.parametrize(
    ("size", "is_declared", "reserved"),
    [
        (MAX_MEMORY_BYTES, True, []),
        (MAX_MEMORY_BYTES, False, []),
        (3 * FIRST_BYTES, True, [3 * FIRST_BYTES]),
        # Twice of what has arrived, each time that it is more.
        (3 * FIRST_BYTES, False, [FIRST_BYTES, 2 * 1_200_000, 2 * 2_700_000]),
    ],
)
def test_room_is_reserved(size: int, is_declared: bool, reserved: list[int]) -> None:
    sizes: list[int] = []

    async def reserve(size: int) -> None:
        sizes.append(size)

    body = form(size)
    parts = [body[start : start + 300_000] for start in range(0, size, 300_000)]
    length = [(b"content-length", b"%d" % size)] if is_declared else []
    read(Client(*parts), reserve, length).close()
    assert sizes == reserved


def test_upload_without_room_is_not_read() -> None:
    async def refuse(size: int) -> None:
        raise TooManyLargeBodies

    client = Client(form(FIRST_BYTES))
    with pytest.raises(TooManyLargeBodies):
        read(client, refuse, [(b"content-length", b"%d" % FIRST_BYTES)])
    assert len(client.parts) == 1
