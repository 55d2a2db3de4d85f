"""Static files under ASGI."""

from collections.abc import AsyncIterator
from typing import IO

from django.http import FileResponse, HttpRequest
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

BLOCK_BYTES = 64 * 1024


class AsyncWhiteNoiseMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # untyped base
    """WhiteNoise, with files that are read through an async iterator.

    WhiteNoise's own response is a synchronous iterator. Under ASGI, Django reads all of it into
    memory and logs a warning for each file.
    """

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> FileResponse:
        response: FileResponse = WhiteNoiseMiddleware.serve(static_file, request)
        response.streaming_content = _blocks(response.file_to_stream)
        return response


async def _blocks(file: IO[bytes] | None) -> AsyncIterator[bytes]:
    # The files are small and in the page cache: reading a block is faster than changing threads.
    # Django closes the file together with the response.
    while file and (block := file.read(BLOCK_BYTES)):
        yield block
