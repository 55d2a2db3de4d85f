from typing import Any

from keyportal.notifications.reminders import send_reminders
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = (
        "Mail reminders to the owners of keys that expire within 14 or 3 days, or have expired. "
        "The running server sends the mail. Each reminder is sent only once."
    )

    def handle(self, **options: Any) -> None:
        # cron mails all output, so without reminders there is none.
        if count := send_reminders():
            self.stdout.write(f"Reminders: {count}. The running server sends them.")
