from argparse import BooleanOptionalAction
from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.teams.management.operator import OperatorCommand, team_named

FIELDS = ("name", "key_limit", "is_active")


class Command(OperatorCommand):
    help = "Change a team's name or key limit, or switch it off and on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("--name")
        parser.add_argument("--key-limit", type=int)
        parser.add_argument(
            "--active",
            dest="is_active",
            action=BooleanOptionalAction,
            help="keys of a team that is not active are refused from the next request on",
        )

    def handle(self, **options: Any) -> None:
        team = team_named(options["team"])
        changed = [field for field in FIELDS if options[field] is not None]
        if not changed:
            raise CommandError("Nothing to change: give --name, --key-limit or --[no-]active.")
        for field in changed:
            setattr(team, field, options[field])
        team.full_clean()
        team.save(update_fields=changed)
        state = "active" if team.is_active else "not active"
        self.stdout.write(f"{team.slug}: {team.name}, at most {team.key_limit} keys, {state}")
