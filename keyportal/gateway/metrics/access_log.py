"""The access log: one line for each request to `/v1/` and `/auth/verify` that is over."""

import logging
import random
from logging.handlers import QueueListener
from queue import SimpleQueue
from typing import Any

from keyportal.gateway.metrics.ended_requests import EndedRequest

# Lines that wait for a slow reader of the log. More are left out: they would fill the memory.
MAX_WAITING = 10_000

logger = logging.getLogger(__name__)


class AccessLog:
    """One per worker; an observer of ended requests.

    A thread writes the lines, so that a slow reader of the log delays no call. They have a log
    level of their own and are written whatever KEYPORTAL_LOG_LEVEL is.
    """

    def __init__(self, share: float) -> None:
        """`share` is the part of the served requests that is logged. Failures always are."""
        self._share = share
        self._left_out = 0
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._listener = _Listener(self._queue, *logging.getLogger().handlers)
        self._listener.start()

    def __call__(self, request: EndedRequest) -> None:
        if request.status < 400 and random.random() >= self._share:  # noqa: S311 - a sample
            return
        if self._queue.qsize() >= MAX_WAITING:
            self._left_out += 1
            return
        if self._left_out:
            logger.warning("%d lines of the access log were left out.", self._left_out)
            self._left_out = 0
        self._queue.put_nowait(request)

    def close(self) -> None:
        """Write the lines that wait."""
        self._listener.stop()


class _Listener(QueueListener):
    def prepare(self, record: Any) -> logging.LogRecord:
        """The line of a request; made in this thread, not in the event loop."""
        fields = _fields(record)
        names = fields.keys() - {"status", "endpoint"}
        details = " ".join(f"{name}={fields[name]}" for name in fields if name in names)
        message = f"{record.status} {record.endpoint} {details}"
        line = logging.LogRecord("keyportal.access", logging.INFO, "", 0, message, None, None)
        line.fields = fields  # For the formatter of JSON.
        return line


def _fields(request: EndedRequest) -> dict[str, str | int]:
    """What is known, by name. Prompts, answers and key strings are not in an `EndedRequest`."""
    first_byte = request.first_byte_seconds
    fields: dict[str, str | int | None] = {
        "status": request.status,
        "endpoint": request.endpoint,
        "request_id": request.request_id,
        "code": request.code,
        "team": request.team,
        "key": request.public_id,
        "model": request.model,
        "upstream": request.upstream,
        "first_byte_ms": None if first_byte is None else int(first_byte * 1000),
        "duration_ms": int(request.seconds * 1000),
        "prompt_tokens": request.prompt_tokens or None,
        "completion_tokens": request.completion_tokens or None,
    }
    return {name: value for name, value in fields.items() if value is not None and value != ""}
