from typing import Any

from django.core.management.base import CommandParser

from keyportal.teams.management.operator import OperatorCommand, get_user
from keyportal.teams.sign_in import factors


class Command(OperatorCommand):
    help = (
        "Remove the second factors of a user who lost them, and sign the user out everywhere. "
        "The user is told by mail, and can then sign in with the password alone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("username")

    def handle(self, **options: Any) -> None:
        user = get_user(options["username"])
        factors.reset(user)
        self.note(f"Removed the second factors of {user}.")
