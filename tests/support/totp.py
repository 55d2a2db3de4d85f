"""Codes as an authenticator app shows them (RFC 6238)."""

import base64
import hashlib
import hmac
import struct
import time

PERIOD_SECONDS = 30


def code(secret: str, *, periods_ago: int = 0) -> str:
    counter = int(time.time()) // PERIOD_SECONDS - periods_ago
    digest = hmac.new(base64.b32decode(secret), struct.pack(">Q", counter), hashlib.sha1).digest()
    start = digest[-1] & 15
    number = struct.unpack(">I", digest[start : start + 4])[0] & 0x7FFFFFFF
    return f"{number % 1_000_000:06}"
