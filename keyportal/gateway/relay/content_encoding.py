"""Decoding of compressed request bodies, block by block.

Attack: a bomb, which is small as it arrives and huge when it is decoded. So no step returns more
than `BLOCK_BYTES`, and the reader counts what was decoded against the limit.
"""

import sys
import zlib
from collections.abc import Callable
from typing import Protocol

from keyportal.gateway.errors import BadRequest, UnsupportedEncoding
from keyportal.http.types import Headers

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

BLOCK_BYTES = 256 * 1024  # Decoded in 0.2 to 0.6 ms, while other calls wait.

# The largest window that a body may ask for (RFC 9659). Attack: a body of a few bytes asks for one
# of gigabytes, which the decoder would allocate.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}  # 8 MiB


class _Decompressor(Protocol):
    """As in the modules bz2, lzma and zstd. It keeps what it could not decode yet."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _ZlibDecompressor:
    """zlib's own gives back what it could not decode yet, instead of keeping it."""

    def __init__(self, window_bits: int) -> None:
        self._zlib = zlib.decompressobj(window_bits)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _gzip(_start: bytes) -> _Decompressor:
    return _ZlibDecompressor(16 + zlib.MAX_WBITS)


def _deflate(start: bytes) -> _Decompressor:
    """With zlib's header, as RFC 9110 wants it, or without, as some clients send it."""
    has_header = start[0] & 0x0F == 8
    return _ZlibDecompressor(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def _zstd(_start: bytes) -> _Decompressor:
    return zstd.ZstdDecompressor(options=_ZSTD_OPTIONS)


_CODINGS: dict[bytes, Callable[[bytes], _Decompressor]] = {
    b"gzip": _gzip,
    b"x-gzip": _gzip,
    b"deflate": _deflate,
    b"zstd": _zstd,
}


class Decoder:
    """Decodes one body, which must be one complete stream of the coding and nothing else."""

    def __init__(self, coding: bytes) -> None:
        self._name = coding.decode()
        self._create = _CODINGS[coding]
        self._decompressor: _Decompressor | None = None
        self.has_more = False
        """Whether `decode` may return more without further data."""

    def decode(self, data: bytes) -> bytes:
        """At most `BLOCK_BYTES`; while `has_more`, call it with no data for the next block.

        Raises `BadRequest`.
        """
        if not data and not self.has_more:
            return b""
        if self._decompressor is None:
            self._decompressor = self._create(data)
        try:
            is_over = self._decompressor.eof
            block = b"" if is_over else self._decompressor.decompress(data, BLOCK_BYTES)
        except zlib.error:
            raise self._refusal("is not valid") from None
        except zstd.ZstdError:
            raise self._refusal("is not valid, or has a window of over 8 MiB") from None
        if is_over or self._decompressor.unused_data:
            raise self._refusal("goes on after its end")
        self.has_more = len(block) == BLOCK_BYTES and not self._decompressor.eof
        return block

    def check_complete(self) -> None:
        """Raises `BadRequest` if the end of the stream is missing."""
        if self._decompressor is None or not self._decompressor.eof:
            raise self._refusal("is incomplete")

    def _refusal(self, problem: str) -> BadRequest:
        return BadRequest(f"The request body can't be decoded: its {self._name} stream {problem}.")


def decoder_for(headers: Headers) -> Decoder | None:
    """The decoder for the body's Content-Encoding; None for a body that is not encoded.

    Raises `UnsupportedEncoding`, also for several codings at once.
    """
    values = [value for name, value in headers if name == b"content-encoding"]
    coding = b",".join(values).strip().lower()
    if coding in {b"", b"identity"}:
        return None
    if coding not in _CODINGS:
        raise UnsupportedEncoding
    return Decoder(coding)
