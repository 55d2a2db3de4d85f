from typing import Any

from django.core.management.base import CommandError

from keyportal.keys.expiry import remind
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = (
        "Send the mails that are due to owners of keys that expire in 14 or 3 days, or have "
        "expired. What was sent is not sent again, however often and wherever this runs."
    )

    def handle(self, **options: Any) -> None:
        told = remind()
        if told.sent:  # cron mails whatever is printed, so nothing is where nothing was done.
            self.stdout.write(f"Reminders sent: {told.sent}")
        if told.failed:
            raise CommandError("Not all reminders could be sent; run this again later.")
