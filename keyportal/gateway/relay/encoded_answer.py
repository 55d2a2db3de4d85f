"""Counts the tokens of answers that are compressed, although the gateway asks for plain ones.

The caller gets such an answer as it is. A copy is decoded, as far as MAX_DECODED_BYTES.
"""

from keyportal.gateway.errors import BadRequest, UnsupportedEncoding
from keyportal.gateway.metering.token_counter import TokenCounter
from keyportal.gateway.relay.content_encoding import Decoder, decoder_for
from keyportal.gateway.relay.sse import MAX_END_BYTES, end_of_events, is_event_stream
from keyportal.http.types import Headers

# Attack: a small answer that is huge when it is decoded. This much takes about 5 ms.
MAX_DECODED_BYTES = 4 * 1024 * 1024
PLAIN = (b"", b"identity")


def is_encoded(headers: Headers) -> bool:
    """Whether an answer is compressed, so that nothing can be read in it or added to it."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in PLAIN:
            return True
    return False


class EncodedAnswerReader:
    """Passes what it can decode of an answer to the token counter.

    In any other coding than gzip, deflate and zstd, tokens are estimated from the compressed bytes.
    """

    def __init__(self, headers: Headers, tokens: TokenCounter) -> None:
        self._tokens = tokens
        self._is_events = is_event_stream(headers)
        self._incomplete_event = bytearray()
        self._allowed_bytes = MAX_DECODED_BYTES
        self._decoder: Decoder | None = None
        try:
            self._decoder = decoder_for(headers)
        except UnsupportedEncoding:
            self.feed = tokens.feed  # type: ignore[method-assign]

    def feed(self, chunk: bytes) -> bytes:
        """Read a chunk of the answer. Returns it unchanged."""
        data = chunk
        while self._decoder is not None and (data or self._decoder.has_more):
            try:
                decoded = self._decoder.decode(data)
            except BadRequest:
                self._decoder = None  # It is not what its header says. The caller may notice.
                break
            data = b""
            self._read(decoded)
            self._allowed_bytes -= len(decoded)
            if self._allowed_bytes <= 0:
                self._decoder = None
        return chunk

    def _read(self, decoded: bytes) -> None:
        if not self._is_events:
            self._tokens.feed(decoded)
            return
        buffer = self._incomplete_event
        start = max(len(buffer) - MAX_END_BYTES, 0)
        buffer += decoded
        if end := end_of_events(buffer, start):
            self._tokens.feed_events(bytes(buffer[:end]))
            del buffer[:end]
