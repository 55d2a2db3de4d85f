from typing import Any

from django.core.management.base import CommandParser
from django.db import transaction

from keyportal.teams.limits import UNLIMITED
from keyportal.teams.management.operator import (
    OperatorCommand,
    add_limit_arguments,
    get_user,
    updated_limits,
)
from keyportal.teams.models import Membership, Role, Team
from keyportal.teams.signals import team_created


class Command(OperatorCommand):
    help = "Create a team and print its slug."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--slug", help="part of URLs and model names; default: random")
        parser.add_argument("--max-keys", type=int, help="maximum number of API keys")
        parser.add_argument("--owner", help="user name of the first owner")
        add_limit_arguments(parser, "Limits for all keys of the team together; default: none.")

    def handle(self, **options: Any) -> None:
        given = {field: options[field] for field in ("slug", "max_keys")}
        team = Team(
            name=options["name"],
            limits=updated_limits(UNLIMITED, options),
            **{field: value for field, value in given.items() if value is not None},
        )
        owner = get_user(options["owner"]) if options["owner"] else None
        with transaction.atomic():
            team.full_clean()
            team.save()
            if owner:
                Membership.objects.create(team=team, user=owner, role=Role.OWNER)
            team_created.send(Team, team=team, actor=None, address=None)
        self.stdout.write(team.slug)
