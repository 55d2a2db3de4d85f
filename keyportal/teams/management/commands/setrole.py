from typing import Any

from django.core.management.base import CommandParser

from keyportal.teams.management.operator import (
    OperatorCommand,
    membership_of,
    team_named,
    user_named,
)
from keyportal.teams.models import Role


class Command(OperatorCommand):
    help = "Change what a user is in a team."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("user", metavar="USERNAME")
        parser.add_argument("role", choices=Role.values)

    def handle(self, **options: Any) -> None:
        team, user = team_named(options["team"]), user_named(options["user"])
        membership = membership_of(user, team)
        membership.role = options["role"]
        membership.save(update_fields=["role"])
        self.note(f"{user} is {membership.role} in {team.slug} now.")
