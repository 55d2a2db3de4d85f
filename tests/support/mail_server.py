"""A mail server on loopback that keeps what it is sent, and refuses what it is told to refuse."""

import asyncio
import email.policy
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from threading import Event
from typing import Any

from aiosmtpd.controller import Controller

from tests.support.server import free_port, wait_until


class Sink:
    """Real SMTP; `received` is what arrived, parsed, in order."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.received: list[EmailMessage] = []
        self.refused: set[str] = set()
        """Addresses that are not taken."""
        self.put_off = 0
        """So many letters are not taken for now."""
        self.may_answer = Event()
        """Cleared: whoever comes waits."""
        self.may_answer.set()
        self.callers = 0

    @property
    def url(self) -> str:
        """An `EMAIL_URL`."""
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def recipients(self) -> list[str]:
        return [str(letter["To"]) for letter in self.received]

    def wait_for(self, number: int) -> list[EmailMessage]:
        """So many letters, and no more, once they are there."""
        wait_until(lambda: len(self.received) >= number)
        assert len(self.received) == number
        return self.received

    @property
    def text(self) -> str:
        """All that arrived: as it came, and as it is read."""
        return "\n".join(f"{letter}\n{letter.get_content()}" for letter in self.received)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        self.callers += 1
        while not self.may_answer.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        if self.put_off > 0:
            self.put_off -= 1
            return "450 Not now"
        if address in self.refused:
            return "550 There is nobody of that name"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any
    ) -> str:
        parser = BytesParser(EmailMessage, policy=email.policy.default)
        self.received.append(parser.parsebytes(envelope.content))
        return "250 Taken"

    @contextmanager
    def running(self) -> Iterator["Sink"]:
        controller = Controller(self, hostname="127.0.0.1", port=self.port)
        controller.start()
        try:
            yield self
        finally:
            self.may_answer.set()
            controller.stop()
