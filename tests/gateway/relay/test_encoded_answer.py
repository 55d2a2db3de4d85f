"""Answers that are compressed, although the gateway asks for plain ones."""

import asyncio
import gzip
import json
import sys
import zlib
from collections.abc import Callable

import pytest

from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.calls import Call
from keyportal.gateway.errors import UpstreamFailed
from keyportal.gateway.metering.token_counter import TokenCounter
from keyportal.gateway.relay.answer import Answer, BufferedBody
from keyportal.gateway.relay.encoded_answer import MAX_DECODED_BYTES, EncodedAnswerReader
from keyportal.gateway.relay.sending import send_response
from keyportal.http.types import Headers, Message
from tests.support.calls import make_call

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

pytestmark = pytest.mark.any_database
ANSWER = json.dumps(
    {"choices": [{"message": {"content": "x" * 2000}}], "usage": {
        "prompt_tokens": 12, "completion_tokens": 5
    }}
).encode()  # fmt: skip
EVENTS = (
    b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n' * 300
    + b'data: {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 5}}\n\n'
    + b"data: [DONE]\n\n"
)
VERDICT = Verdict(1, "k1", 1, None, "acme", 1)


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(body) + compressor.flush()


CODINGS = [
    (b"gzip", gzip.compress),
    (b"deflate", zlib.compress),
    (b"deflate", raw_deflate),
    (b"zstd", zstd.compress),
    (b"GZIP", gzip.compress),
]


def sent(answer: Answer) -> tuple[Call, list[Message]]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def work() -> Call:
        call = make_call(VERDICT)
        call.tokens.expect_answer(100, does_generate=True, is_usage_hidden=True)
        await send_response(answer, call, send)
        return call

    return asyncio.run(work()), messages


def body_of(messages: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in messages)


def pieces(body: bytes, size: int = 50) -> BufferedBody:
    return BufferedBody([body[start : start + size] for start in range(0, len(body), size)])


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
@pytest.mark.parametrize("is_buffered", [True, False])
def test_compressed_answer_is_passed_on_and_counted(
    coding: bytes, compress: Callable[[bytes], bytes], is_buffered: bool
) -> None:
    body = compress(ANSWER)
    headers: Headers = [
        (b"content-type", b"application/json"),
        (b"content-encoding", coding),
        (b"content-length", b"%d" % len(body)),
    ]
    call, messages = sent(Answer(200, headers, body if is_buffered else pieces(body)))
    assert messages[0]["headers"] == headers
    assert body_of(messages) == body
    assert (call.tokens.prompt, call.tokens.completion) == (12, 5)
    assert not call.tokens.is_estimated


@pytest.mark.parametrize(("coding", "compress"), CODINGS)
def test_compressed_events_are_passed_on_unchanged_and_counted(
    coding: bytes, compress: Callable[[bytes], bytes]
) -> None:
    """Nothing is removed from them, not even usage that the caller did not ask for, and no comment
    or error event is added: it would break the compression.
    """
    body = compress(EVENTS)
    headers: Headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", coding)]
    call, messages = sent(Answer(200, headers, pieces(body, 7)))
    assert messages[0]["headers"] == headers
    assert body_of(messages) == body
    assert (call.tokens.prompt, call.tokens.completion) == (12, 5)
    assert call.tokens.has_last_event
    assert call.keep_alive is None


def test_bomb_is_not_decoded_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: 1 MB that is 1 GB when it is decoded."""
    tokens = TokenCounter()
    read = 0

    def feed(chunk: bytes) -> bytes:
        nonlocal read
        read += len(chunk)
        return chunk

    monkeypatch.setattr(tokens, "feed", feed)
    reader = EncodedAnswerReader([(b"content-encoding", b"gzip")], tokens)
    compressor = zlib.compressobj(wbits=31)
    for _ in range(64):
        chunk = compressor.compress(b" " * 1024 * 1024) or b""
        assert reader.feed(chunk) == chunk
    assert read == MAX_DECODED_BYTES


def test_event_without_an_end_is_not_kept_beyond_the_limit() -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
    reader = EncodedAnswerReader(headers, TokenCounter())
    reader.feed(gzip.compress(b"data: " + b"x" * 64 * 1024 * 1024))
    assert len(reader._incomplete_event) <= MAX_DECODED_BYTES


@pytest.mark.parametrize(
    ("coding", "body", "completion"),
    [
        (b"gzip", b"not gzip", 0),
        (b"gzip", gzip.compress(ANSWER, mtime=0)[:10], 0),
        (b"deflate", b"", 0),
        (b"br", b"\x8b\x80" * 200, 100),
        (b"gzip, br", b"\x8b\x80" * 200, 100),
    ],
)
def test_answer_that_can_not_be_decoded_is_passed_on_and_estimated(
    coding: bytes, body: bytes, completion: int
) -> None:
    headers = [(b"content-encoding", coding), (b"content-length", b"%d" % len(body))]
    call, messages = sent(Answer(200, headers, pieces(body)))
    assert body_of(messages) == body
    assert (call.tokens.prompt, call.tokens.completion) == (100, completion)
    assert call.tokens.is_estimated


def test_identity_is_no_compression() -> None:
    headers = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"identity")]
    call, messages = sent(Answer(200, headers, pieces(EVENTS)))
    assert b"usage" not in body_of(messages)
    assert call.tokens.completion == 5


@pytest.mark.parametrize("encoding", [[], [(b"content-encoding", b"gzip")]])
def test_answer_is_never_longer_than_its_content_length(encoding: Headers) -> None:
    """Attack: the client takes the rest for the answer to its next request."""
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    async def work() -> None:
        headers = [(b"content-length", b"10"), *encoding]
        with pytest.raises(UpstreamFailed):
            await send_response(
                Answer(200, headers, BufferedBody([b"12345", b"123456"])), make_call(VERDICT), send
            )

    asyncio.run(work())
    assert body_of(messages) == b"12345"
