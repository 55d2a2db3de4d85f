"""A mail server on loopback that keeps what it is sent, and refuses what it is told to refuse."""

import email.policy
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any

from aiosmtpd.controller import Controller

from tests.serving import free_port


class Sink:
    """Real SMTP; `received` is what arrived, parsed, in order."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.received: list[EmailMessage] = []
        self.refused: set[str] = set()
        """Addresses that are not taken."""

    @property
    def url(self) -> str:
        """An `EMAIL_URL`."""
        return f"smtp://127.0.0.1:{self.port}"

    @property
    def recipients(self) -> list[str]:
        return [str(letter["To"]) for letter in self.received]

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]
    ) -> str:
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
            controller.stop()
