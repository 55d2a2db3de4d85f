"""How long a model server asks to be left alone."""

import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime

from keyportal.http.types import Headers

_NUMBER = re.compile(rb"[0-9]{1,9}(?:\.[0-9]{1,9})?")


def seconds_to_wait(headers: Headers) -> float:
    """The seconds in `retry-after-ms` or `retry-after`; 0 without a valid one.

    `retry-after` has seconds or an HTTP date (RFC 9110, 10.2.3). A date in the past is 0 seconds.
    """
    values = dict(headers)
    if _NUMBER.fullmatch(milliseconds := values.get(b"retry-after-ms", b"")):
        return float(milliseconds) / 1000
    text = values.get(b"retry-after", b"")
    return float(text) if _NUMBER.fullmatch(text) else _seconds_until(text)


def _seconds_until(http_date: bytes) -> float:
    try:
        date = parsedate_to_datetime(http_date.decode("latin-1"))
        # The oldest of the three forms names no zone; all are in UTC.
        return max(date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time(), 0)
    except (ValueError, TypeError, IndexError, OverflowError):
        return 0
