"""Shared by all operator commands: the base class, and lookup of teams, users and memberships.

Results go to standard output, everything else to standard error. No command prompts for input.
Key strings are redacted in all messages: an operator may paste one into the wrong argument, and
the output of commands often ends up in a log.
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
    """Redacts key strings in messages about invalid arguments."""

    def error(self, message: str) -> Any:
        super().error(redact(message))


class OperatorCommand(BaseCommand):
    """Reports a `ValidationError` as a `CommandError`, and redacts key strings in messages."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        # Django has no setting for the class of the parser.
        parser.__class__ = OperatorParser
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except ValidationError as error:
            raise CommandError(redact(_error_text(error))) from None
        except CommandError as error:
            if (message := redact(str(error))) == str(error):
                raise
            # `from None`, because `--traceback` would print the original message as the cause.
            raise CommandError(message, returncode=error.returncode) from None

    def note(self, text: str) -> None:
        """Print to standard error, for the operator and not for a script that reads the result."""
        self.stderr.write(redact(text), self.style.NOTICE)


def get_team(slug: str) -> Team:
    """By its slug, or by a former one that still works."""
    team = Team.objects.find(slug)
    if team is None:
        raise CommandError(f"There is no team with the slug {slug}.")
    return team


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


def add_limit_arguments(parser: CommandParser, description: str) -> None:
    """Add `--requests-per-minute` and so on; `description` is the help text of the group."""
    group = parser.add_argument_group("limits", description)
    for name in LABELS:
        group.add_argument(f"--{name.replace('_', '-')}", type=_parse_limit, metavar="N")


def updated_limits(limits: Limits, options: dict[str, Any]) -> Limits:
    """`limits` with the limits given in `options`; 0 or `none` removes a limit.

    Raises `ValidationError` for an invalid limit.
    """
    changes = {name: options[name] or None for name in LABELS if options[name] is not None}
    updated = limits._replace(**changes)
    validate(updated)
    return updated


def _parse_limit(text: str) -> int:
    """`none` becomes 0, because argparse uses None for an option that was not given."""
    if text == "none":
        return 0
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"invalid number or none value: {text!r}") from None


def read_environment(variable: str) -> str:
    """The value of an environment variable; raises `CommandError` if it is unset or empty.

    Attack: a secret given as an argument is visible to every user of the machine, in `ps`.
    """
    if value := os.environ.get(variable, ""):
        return value
    raise CommandError(f"The environment variable {variable} is not set or is empty.")


def _error_text(error: ValidationError) -> str:
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return " ".join(
        f"{field}: {' '.join(messages)}" if field != "__all__" else " ".join(messages)
        for field, messages in error.message_dict.items()
    )
