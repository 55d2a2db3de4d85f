"""What a request says of itself, and what each is called, the same at every place that asks."""

import random

from keyportal.asgi_types import Scope

UNKNOWN = float("inf")


def declared_length(scope: Scope) -> float:
    """Bytes of the body: 0 where there is none, infinite where nobody said or believes it."""
    headers = dict(scope["headers"])
    if b"transfer-encoding" in headers:
        return UNKNOWN
    length = headers.get(b"content-length", b"0")
    # Python takes offence at thousands of digits, with an error that is no refusal.
    return int(length) if length.isdigit() and len(length) < 20 else UNKNOWN


def new_request_id() -> str:
    """`req_` and 24 hexadecimal digits: for telling apart, not for guarding, so no system call."""
    return f"req_{random.getrandbits(96):024x}"
