from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.teams.lifecycle import changes
from keyportal.teams.management.operator import OperatorCommand, get_team


class Command(OperatorCommand):
    help = "Delete a team with its keys, models and service accounts, for good."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("--name", required=True, help="the name of the team, to confirm")

    def handle(self, **options: Any) -> None:
        team = get_team(options["team"])
        try:
            changes.delete(team, options["name"], actor=None)
        except changes.WrongName:
            # Without the right name, so that it must be looked up.
            raise CommandError(f"The name of {team.slug} is another one.") from None
        self.note(f"Deleted {team.slug}.")
