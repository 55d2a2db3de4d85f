"""Mail leaves behind the answer: its time, or a mail server that is down for the 30 seconds that
we wait for one, would tell a stranger that there was somebody, or something, to write of."""

import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from django.core.mail import EmailMessage

logger = logging.getLogger(__name__)
# The thread starts with the first mail, so after the fork; a process that ends waits for it.
post_office = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mail")


def send_later(messages: Iterable[EmailMessage]) -> None:
    """Hand these over, each to be sent by itself; what goes wrong is in the log alone."""
    for message in messages:
        post_office.submit(_deliver, message)


def _deliver(message: EmailMessage) -> None:
    try:
        message.send()
    except Exception:
        # Nobody looks at the future, so whatever else goes wrong would be lost without a word.
        logger.exception("A mail could not be sent; EMAIL_URL says where to.")
