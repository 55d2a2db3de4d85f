"""A load that knew what each request should get."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from tests.support.server import CHAT, Connection, chat_body, head

LOST = (0, "")
"""The status and code of a request whose connection broke before its answer."""
OK = (200, "")
UNAVAILABLE = (503, "database_unavailable")
LIMITED = (429, "rate_limit_exceeded")
INVALID = (401, "invalid_api_key")


class Answer(NamedTuple):
    """What one request got."""

    caller: str
    port: int
    began: float
    ended: float
    """Both on the monotonic clock."""
    outcome: tuple[int, str]
    """Status and code."""


class Load:
    """Each caller sends one call after the other to each node, on a connection of its own."""

    def __init__(
        self, ports: list[int], keys: dict[str, str], model: str, *, pause: float = 0
    ) -> None:
        """`pause` is the seconds from one answer to the next call."""
        self.answers: list[Answer] = []
        self._pause = pause
        self._stopped = threading.Event()
        body = json.dumps(chat_body(model)).encode()
        self._threads = [
            threading.Thread(
                target=self._call,
                args=(caller, port, head(f"POST {CHAT}", key, len(body)) + body),
            )
            for caller, key in keys.items()
            for port in ports
        ]

    @contextmanager
    def running(self) -> Iterator["Load"]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._stopped.set()
            for thread in self._threads:
                thread.join()

    def _call(self, caller: str, port: int, request: bytes) -> None:
        connection: Connection | None = None
        while not self._stopped.is_set():
            began = time.monotonic()
            try:
                connection = connection or Connection(port, 120)
                connection.send(request)
                reply = connection.reply()
                outcome = (reply.status, "" if reply.status == 200 else reply.code)
                is_open = reply.headers.get("connection") != "close"
            except (OSError, EOFError, ValueError):
                outcome, is_open = LOST, False
            self.answers.append(Answer(caller, port, began, time.monotonic(), outcome))
            if not is_open:
                _close(connection)
                connection = None
            time.sleep(max(self._pause, 0.02 if outcome == LOST else 0))
        _close(connection)

    def outcomes(
        self, caller: str = "", since: float = 0, until: float = float("inf"), port: int = 0
    ) -> Counter[tuple[int, str]]:
        """What the requests that ended within this time got."""
        return Counter(
            answer.outcome
            for answer in tuple(self.answers)
            if since <= answer.ended < until
            and caller in {"", answer.caller}
            and port in {0, answer.port}
        )

    def rate(self, caller: str, since: float, until: float) -> float:
        """Calls that this caller got answered in a second."""
        return self.outcomes(caller, since, until)[OK] / (until - since)

    def seconds_until_well(self, fault: float, port: int = 0) -> float:
        """How long after the fault the last request failed; 0 if none did."""
        failed = [
            answer.ended - fault
            for answer in tuple(self.answers)
            if answer.ended > fault
            and answer.outcome[0] in {0, 500, 502, 503}
            and port in {0, answer.port}
        ]
        return max(failed, default=0.0)


def _close(connection: Connection | None) -> None:
    if connection is not None:
        with suppress(OSError):
            connection.close()
