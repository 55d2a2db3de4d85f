from typing import Any

from django.core.management.base import CommandParser

from keyportal.teams.management.operator import (
    OperatorCommand,
    get_membership,
    get_team,
    get_user,
)
from keyportal.teams.membership.changes import change_role
from keyportal.teams.models import Role


class Command(OperatorCommand):
    help = "Change the role of a user in a team."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("user", metavar="USERNAME")
        parser.add_argument("role", choices=Role.values)

    def handle(self, **options: Any) -> None:
        team, user = get_team(options["team"]), get_user(options["user"])
        get_membership(user, team)
        membership = change_role(team, user, Role(options["role"]), actor=None)
        self.note(f"{user} is now {membership.role} in {team.slug}.")
