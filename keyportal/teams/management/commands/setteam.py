from argparse import BooleanOptionalAction
from copy import copy
from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.teams.access import lock_team
from keyportal.teams.lifecycle.changes import change_slug
from keyportal.teams.limits import LABELS
from keyportal.teams.management.operator import (
    OperatorCommand,
    add_limit_arguments,
    get_team,
    updated_limits,
)
from keyportal.teams.models import Role, Team
from keyportal.teams.signals import team_changed

FIELDS = ("name", "max_keys", "is_active")


class Command(OperatorCommand):
    help = "Change a team's name, key limit or limits, or make it inactive or active."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("--name")
        parser.add_argument("--slug", help="the former slug works on for 90 days")
        parser.add_argument("--max-keys", type=int)
        parser.add_argument(
            "--active",
            dest="is_active",
            action=BooleanOptionalAction,
            help="the keys of an inactive team are refused from the next request on",
        )
        add_limit_arguments(
            parser, "Limits for all keys of the team together; `none` removes a limit."
        )

    def handle(self, **options: Any) -> None:
        team = get_team(options["team"])
        changes = {field: options[field] for field in FIELDS if options[field] is not None}
        has_limits = any(options[name] is not None for name in LABELS)
        if not changes and not has_limits and not options["slug"]:
            raise CommandError(
                "Nothing to change: give --name, --slug, --max-keys, --[no-]active or a limit."
            )
        with lock_team(team, actor=None, role=Role.ADMIN) as team:
            former = copy(team)
            if has_limits:
                # Of the locked row: another operator may have just changed other limits.
                changes["limits"] = updated_limits(team.limits, options)
            for field, value in changes.items():
                setattr(team, field, value)
            team.full_clean()
            team.save(update_fields=changes)
            source = {"actor": None, "address": None}
            team_changed.send(Team, former=former, team=team, columns=changes, **source)
            if options["slug"]:
                change_slug(team, options["slug"], actor=None)
                team.refresh_from_db()
        state = "active" if team.is_active else "inactive"
        keys, limits = f"at most {team.max_keys} keys", team.limits.describe()
        self.stdout.write(f"{team.slug}: {team.name}, {keys}, {state}, {limits}")
