"""An SMTP server on loopback that stores messages, and rejects, defers or delays on demand."""

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


class MailServer:
    """`received` has the parsed messages in order of arrival."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.received: list[EmailMessage] = []
        self.rejected_recipients: set[str] = set()
        """Addresses that are rejected with 550."""
        self.deferrals = 0
        """So many of the next recipients are deferred with 450."""
        self.accepting = Event()
        """When a test clears it, clients wait for their reply to MAIL."""
        self.accepting.set()
        self.connections = 0

    @property
    def url(self) -> str:
        """An `EMAIL_URL`."""
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def recipients(self) -> list[str]:
        return [str(message["To"]) for message in self.received]

    def wait_for(self, number: int) -> list[EmailMessage]:
        """Wait for so many messages, and assert that there are no more."""
        wait_until(lambda: len(self.received) >= number)
        assert len(self.received) == number
        return self.received

    @property
    def text(self) -> str:
        """All messages, encoded and decoded."""
        return "\n".join(f"{message}\n{message.get_content()}" for message in self.received)

    async def handle_MAIL(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        self.connections += 1
        while not self.accepting.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
        if self.deferrals > 0:
            self.deferrals -= 1
            return "450 Not now"
        if address in self.rejected_recipients:
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
    def running(self) -> Iterator["MailServer"]:
        controller = Controller(self, hostname="127.0.0.1", port=self.port)
        controller.start()
        try:
            yield self
        finally:
            self.accepting.set()
            controller.stop()
