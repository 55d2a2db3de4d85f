"""Static files under ASGI."""

from collections.abc import AsyncIterator
from typing import IO

from django.http import FileResponse, HttpRequest
from whitenoise.middleware import WhiteNoiseMiddleware
from whitenoise.responders import StaticFile

BLOCK = 64 * 1024


class AsyncWhiteNoiseMiddleware(WhiteNoiseMiddleware):  # type: ignore[misc]  # untyped base
    """WhiteNoise, but read through an async iterator.

    Its own answer is a synchronous iterator, which Django under ASGI gathers in memory, with a
    warning, on each file.
    """

    @staticmethod
    def serve(static_file: StaticFile, request: HttpRequest) -> FileResponse:
        response: FileResponse = WhiteNoiseMiddleware.serve(static_file, request)
        response.streaming_content = _blocks(response.file_to_stream)
        return response


async def _blocks(file: IO[bytes] | None) -> AsyncIterator[bytes]:
    # These files are small and in the page cache: reading a block is faster than a thread hop.
    # Django closes the file with the response.
    while file and (block := file.read(BLOCK)):
        yield block
