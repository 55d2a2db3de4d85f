from typing import Any

from django.core.management.base import CommandParser

from keyportal.teams.management.operator import (
    OperatorCommand,
    get_membership,
    get_team,
    get_user,
)
from keyportal.teams.membership.changes import remove


class Command(OperatorCommand):
    help = "Remove a user from a team. Their keys in it are refused from the next request on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("user", metavar="USERNAME")

    def handle(self, **options: Any) -> None:
        team, user = get_team(options["team"]), get_user(options["user"])
        get_membership(user, team)
        remove(team, user, actor=None)
        self.note(f"Removed {user} from {team.slug}.")
