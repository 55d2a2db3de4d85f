from typing import Any

from keyportal.notifications.reminders import send_reminders
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = (
        "Remind the owners of keys that expire in 14 or 3 days, or have expired, by mail. The "
        "running server sends the mail. Each reminder is given once, however often this runs."
    )

    def handle(self, **options: Any) -> None:
        # cron mails what is printed, so nothing is where nothing was done.
        if count := send_reminders():
            self.stdout.write(f"Reminders: {count}. The running server sends them.")
