from argparse import BooleanOptionalAction
from copy import copy
from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.teams.limits import LABELS
from keyportal.teams.management.operator import (
    OperatorCommand,
    add_limit_arguments,
    get_team,
    updated_limits,
)
from keyportal.teams.models import Team, lock_team
from keyportal.teams.signals import team_changed

FIELDS = ("name", "key_limit", "is_active")


class Command(OperatorCommand):
    help = "Change a team's name, key limit or roof of use, or switch it off and on."

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
        add_limit_arguments(
            parser, "A roof over all keys of the team together; `none` takes a limit away."
        )

    def handle(self, **options: Any) -> None:
        named = get_team(options["team"])
        given = {field: options[field] for field in FIELDS if options[field] is not None}
        has_limits = any(options[name] is not None for name in LABELS)
        if not given and not has_limits:
            raise CommandError(
                "Nothing to change: give --name, --key-limit, --[no-]active or a limit."
            )
        with lock_team(named) as team:
            former = copy(team)
            if has_limits:
                # Those that stay are those of this moment: another operator may be setting them.
                given["limits"] = updated_limits(team.limits, options)
            for field, value in given.items():
                setattr(team, field, value)
            team.full_clean()
            team.save(update_fields=given)
            who = {"actor": None, "address": None}
            team_changed.send(Team, former=former, team=team, columns=given, **who)
        state = "active" if team.is_active else "not active"
        keys, roof = f"at most {team.key_limit} keys", team.limits.describe()
        self.stdout.write(f"{team.slug}: {team.name}, {keys}, {state}, {roof}")
