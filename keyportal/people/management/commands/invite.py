from typing import Any

from django.core.management.base import CommandParser

from keyportal.people.forms import clean_emails
from keyportal.people.invitations import invite
from keyportal.people.links import url_for
from keyportal.teams.management.operator import OperatorCommand, get_team
from keyportal.teams.models import Role


class Command(OperatorCommand):
    help = (
        "Invite somebody to a team and print the link, which works once, for seven days. Nothing "
        "is mailed: send the link yourself."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("email", metavar="EMAIL")
        parser.add_argument("--role", choices=Role.values, default=Role.MEMBER.value)

    def handle(self, **options: Any) -> None:
        team, emails = get_team(options["team"]), clean_emails(options["email"])
        role = Role(options["role"])
        for invitation in invite(team, emails, role, actor=None, address=None):
            self.stdout.write(url_for(invitation, is_mailed=False))
            self.note(f"Invited {invitation} to {team.slug}.")
