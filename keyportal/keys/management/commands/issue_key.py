from datetime import UTC, datetime
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.keys.permissions import Permissions
from keyportal.keys.policy import widest
from keyportal.keys.refusals import KeyRefused
from keyportal.teams.limits import LABELS, Limits
from keyportal.teams.management.operator import (
    OperatorCommand,
    add_limit_arguments,
    membership_of,
    team_named,
    user_named,
    with_given_limits,
)
from keyportal.teams.models import Role, Team, User


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
        parser.add_argument("--expires", metavar="ISO", help="such as 2030-01-31T18:00+01:00")
        add_limit_arguments(
            parser,
            "Where one is given, the owner may not raise any; `none` takes away what new keys "
            "of the team start with, which is the default.",
        )

    @sensitive_variables("key_string")
    def handle(self, **options: Any) -> None:
        team, owner = team_named(options["team"]), user_named(options["owner"])
        _require_may_own(owner, team)
        name = options["name"].strip()
        ApiKey(team=team, owner=owner, name=name).clean_fields(exclude=["public_id"])
        try:
            _, key_string = ApiKey.objects.issue(
                team=team,
                owner=owner,
                name=name,
                expires_at=_moment(options["expires"]),
                permissions=_permissions(options["models"], team),
                limits=_limits(options, team),
            )
        except KeyRefused as error:
            raise CommandError(str(error)) from error
        self.stdout.write(key_string.text)


def _require_may_own(owner: User, team: Team) -> None:
    membership = membership_of(owner, team)
    if not membership.is_at_least(Role.MEMBER):
        raise CommandError(f"{owner} only views {team.slug}: a viewer owns no keys.")
    if not (owner.is_active and team.is_active):
        raise CommandError(f"{owner} or {team.slug} is not active: the key would not work.")


def _permissions(names: list[str], team: Team) -> Permissions | None:
    """None where no model is named, so that the key may what the team's policy lets keys do."""
    if not names:
        return None
    known = set(ServedModel.objects.callable_by(team).values_list("name", flat=True))
    if unknown := [name for name in names if name not in known]:
        raise CommandError(f"{team.slug} can't call {', '.join(unknown)}.")
    return widest(team.policy)._replace(models=tuple(sorted(set(names))))


def _limits(options: dict[str, Any], team: Team) -> Limits | None:
    """None where none is given, so that the key starts as the team has it."""
    if all(options[name] is None for name in LABELS):
        return None
    return with_given_limits(team.key_limits, options)


def _moment(text: str | None) -> datetime | None:
    """Without an offset, UTC."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text} is not an ISO 8601 time.") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment <= timezone.now():
        raise CommandError(f"{text} is over already.")
    return moment
