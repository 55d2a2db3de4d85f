"""Estimates of tokens where a model server reports none: four bytes of text are one token.

A picture, a recording or a file in base64 is not text. Each counts MEDIA_TOKENS, whatever its size.
"""

import re
from collections.abc import Iterator

BYTES_PER_TOKEN = 4  # Roughly, for text in any language model's vocabulary.
MEDIA_TOKENS = 1000  # Roughly, for a picture, a page of a document, or a minute of speech.
MIN_MEDIA_BYTES = 8 * 1024  # Shorter base64 may be counted as text.

_PROBE_BYTES = 64
_STRIDE = MIN_MEDIA_BYTES - _PROBE_BYTES
_BASE64 = re.compile(rb"[A-Za-z0-9+/=_\\-]{64}")
_LONGEST_NAME = 64  # With the spaces after it.
_LONGEST_PREFIX = 200  # Of a data URL, before its base64.
# What stands before base64: in `source.data`, `input_audio.data`, `file.file_data`, `b64_json` and
# data URLs.
_MEDIA_NAME = re.compile(
    rb'"(?:data|file_data|b64_json|image|url|image_url|file_url)"[ \t\r\n]*:[ \t\r\n]*\Z'
)
# Text in the events of streams and in answers; not what frames it.
_TEXT = re.compile(
    rb'"(?:content|text|delta|arguments|input|partial_json|reasoning|reasoning_content|refusal'
    rb'|thinking|transcript)"[ \t\r\n]*:[ \t\r\n]*"([^"\\]*+(?:\\.[^"\\]*+)*+)',
    re.DOTALL,
)
_DELTA = re.compile(rb'"delta"[ \t\r\n]*:[ \t\r\n]*"([^"\\]*+(?:\\.[^"\\]*+)*+)', re.DOTALL)


def tokens_of_text(byte_count: float) -> int:
    """At least one token for any text."""
    return -int(-byte_count // BYTES_PER_TOKEN)


def prompt_tokens(body: bytes | bytearray) -> int:
    """The estimate for the JSON body of a request."""
    if len(body) < MIN_MEDIA_BYTES:
        return len(body) // BYTES_PER_TOKEN
    media = [end - start for start, end in _base64_strings(body) if _is_media(body, start)]
    return (len(body) - sum(media)) // BYTES_PER_TOKEN + len(media) * MEDIA_TOKENS


def without_media(chunk: bytes) -> tuple[int, int]:
    """The number of bytes in a part of an answer that aren't base64, and of media that begin."""
    if len(chunk) < MIN_MEDIA_BYTES:
        return len(chunk), 0
    strings = [*_base64_strings(chunk)]
    size = sum(end - start for start, end in strings)
    return len(chunk) - size, sum(start > 0 for start, _ in strings)


def text_bytes(answer: bytes) -> int:
    """The bytes of generated text in a JSON answer or in events.

    OpenAI's newer streams repeat the text of their deltas at the end, where it doesn't count again.
    """
    return sum(map(len, _DELTA.findall(answer) or _TEXT.findall(answer)))


def text_bytes_of_answer(body: bytes) -> int:
    """The bytes of generated text in an answer that isn't a stream; it may be text itself."""
    is_json = body.lstrip()[:1] in {b"{", b"["}
    return text_bytes(body) if is_json else len(body)


def _base64_strings(body: bytes | bytearray) -> Iterator[tuple[int, int]]:
    """Start and end of each string of at least MIN_MEDIA_BYTES that looks like base64.

    It looks only at a few bytes in every 8 KiB, so 20 MiB of text cost half a millisecond.
    """
    position = last_end = 0
    while position + _PROBE_BYTES <= len(body):
        if not _BASE64.match(body, position):
            position += _STRIDE
            continue
        start = max(body.rfind(b'"', last_end, position) + 1, last_end)
        end = body.find(b'"', position)
        position = last_end = end if end >= 0 else len(body)
        if last_end - start >= MIN_MEDIA_BYTES and all(
            _BASE64.match(body, probe)
            for probe in range(start + _LONGEST_PREFIX, last_end - _PROBE_BYTES, _STRIDE)
        ):
            yield start, last_end


def _is_media(body: bytes | bytearray, start: int) -> bool:
    """Whether the string that begins at `start` is in a place where servers take media.

    Attack: a text without spaces would count as a picture.
    """
    return bool(_MEDIA_NAME.search(body, max(start - _LONGEST_NAME, 0), start - 1))
