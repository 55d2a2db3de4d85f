"""What the operators' commands share: names become rows, mistakes become sentences.

Results go to standard output, everything else to standard error; no command ever asks. A whole key
may stand where something else was wanted, and what a command says is kept in many a log.
"""

import os
from argparse import ArgumentTypeError
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyportal.keys.keystring import redact
from keyportal.teams.limits import LABELS, Limits, validate
from keyportal.teams.models import Membership, Team, User


class OperatorParser(CommandParser):
    """Names what it can't read, with its keys cut."""

    def error(self, message: str) -> Any:
        super().error(redact(message))


class OperatorCommand(BaseCommand):
    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        # Django names the class of its parsers itself, and leaves no say in it.
        parser.__class__ = OperatorParser
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except ValidationError as error:
            raise CommandError(redact(_error_text(error))) from None
        except CommandError as error:
            if (told := redact(str(error))) == str(error):
                raise
            # Without the first, which `--traceback` would show as the cause.
            raise CommandError(told, returncode=error.returncode) from None

    def note(self, text: str) -> None:
        """For the person, and not for the script that reads the result."""
        self.stderr.write(redact(text), self.style.NOTICE)


def get_team(slug: str) -> Team:
    try:
        return Team.objects.get(slug=slug)
    except Team.DoesNotExist:
        raise CommandError(f"There is no team with the slug {slug}.") from None


def get_user(username: str) -> User:
    try:
        return User.objects.get(username=username)
    except User.DoesNotExist:
        raise CommandError(f"There is no user named {username}.") from None


def get_membership(user: User, team: Team) -> Membership:
    try:
        return Membership.objects.get(user=user, team=team)
    except Membership.DoesNotExist:
        raise CommandError(f"{user} is not in the team {team.slug}.") from None


def add_limit_arguments(parser: CommandParser, what: str) -> None:
    """`--requests-per-minute` and so on; `what` tells whose limits these are."""
    group = parser.add_argument_group("limits", what)
    for name in LABELS:
        group.add_argument(f"--{name.replace('_', '-')}", type=_parse_limit, metavar="N")


def updated_limits(limits: Limits, options: dict[str, Any]) -> Limits:
    """Those that were given take the place of the old ones; `none` takes one away."""
    given = {name: options[name] or None for name in LABELS if options[name] is not None}
    changed = limits._replace(**given)
    validate(changed)
    return changed


def _parse_limit(text: str) -> int:
    """0 for none: argparse has its own use for None."""
    if text == "none":
        return 0
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"invalid number or none value: {text!r}") from None


def read_environment(variable: str) -> str:
    """A secret is named, never given: arguments are shown to every user of the machine."""
    if value := os.environ.get(variable, ""):
        return value
    raise CommandError(f"The environment variable {variable} is not set, or empty.")


def _error_text(error: ValidationError) -> str:
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return " ".join(
        f"{field}: {' '.join(messages)}" if field != "__all__" else " ".join(messages)
        for field, messages in error.message_dict.items()
    )
