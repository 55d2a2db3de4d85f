from typing import Any

from django.core.management.base import CommandParser

from keyportal.teams.management.operator import OperatorCommand, get_team, get_user
from keyportal.teams.models import Membership, Role


class Command(OperatorCommand):
    help = "Add a user to a team."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("user", metavar="USERNAME")
        parser.add_argument("--role", choices=Role.values, default=Role.MEMBER.value)

    def handle(self, **options: Any) -> None:
        team, user = get_team(options["team"]), get_user(options["user"])
        membership = Membership(team=team, user=user, role=options["role"])
        membership.full_clean()
        membership.save()
        self.note(f"Added {user} to {team.slug} as {membership.role}.")
