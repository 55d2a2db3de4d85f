from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from keyportal.catalog.models import ServedModel
from keyportal.keys.management.issuing import NEVER, expiry, limits_given, owner_named, refusals
from keyportal.keys.models import ApiKey
from keyportal.keys.permissions import Permissions
from keyportal.keys.policy import widest
from keyportal.teams.management.operator import (
    OperatorCommand,
    add_limit_arguments,
    team_named,
)
from keyportal.teams.models import Team


class Command(OperatorCommand):
    help = "Issue an API key and print it, alone on standard output, this once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--team", required=True, metavar="SLUG")
        parser.add_argument("--owner", required=True, metavar="USERNAME", help="a member of it")
        parser.add_argument("--name", required=True, help="unique in the team")
        parser.add_argument(
            "--model",
            action="append",
            default=[],
            dest="models",
            metavar="NAME",
            help="a served model that the key may call; may be given again; default: all",
        )
        parser.add_argument(
            "--expires",
            metavar="WHEN",
            help=f"an ISO 8601 date or time, a span such as 30d, or {NEVER}, which is the default",
        )
        add_limit_arguments(
            parser,
            "Where one is given, the owner may not raise any; `none` takes away what new keys "
            "of the team start with, which is the default.",
        )

    @sensitive_variables("key_string")
    def handle(self, **options: Any) -> None:
        team = team_named(options["team"])
        owner = owner_named(options["owner"], team)
        name = options["name"].strip()
        ApiKey(team=team, owner=owner, name=name).clean_fields(exclude=["public_id"])
        end = expiry(options["expires"])
        with refusals(team, end):
            _, key_string = ApiKey.objects.issue(
                team=team,
                owner=owner,
                name=name,
                expires_at=end,
                permissions=_permissions(options["models"], team),
                limits=limits_given(options, team),
            )
        self.stdout.write(key_string.text)


def _permissions(names: list[str], team: Team) -> Permissions | None:
    """None where no model is named, so that the key may what the team's policy lets keys do."""
    if not names:
        return None
    known = set(ServedModel.objects.callable_by(team).values_list("name", flat=True))
    if unknown := [name for name in names if name not in known]:
        raise CommandError(f"{team.slug} can't call {', '.join(unknown)}.")
    return widest(team.policy)._replace(models=tuple(sorted(set(names))))
