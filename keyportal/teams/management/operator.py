"""What the operators' commands share: names become rows, mistakes become sentences.

Results go to standard output, everything else to standard error; no command ever asks.
"""

import os
from argparse import ArgumentTypeError
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from keyportal.teams.limits import LABELS, Limits, validate
from keyportal.teams.models import Membership, Team, User


class OperatorCommand(BaseCommand):
    def execute(self, *args: Any, **options: Any) -> str | None:
        try:
            return super().execute(*args, **options)
        except ValidationError as error:
            raise CommandError(_sentence(error)) from error

    def note(self, text: str) -> None:
        """For the person, and not for the script that reads the result."""
        self.stderr.write(text, self.style.NOTICE)


def team_named(slug: str) -> Team:
    try:
        return Team.objects.get(slug=slug)
    except Team.DoesNotExist:
        raise CommandError(f"There is no team with the slug {slug}.") from None


def user_named(username: str) -> User:
    try:
        return User.objects.get(username=username)
    except User.DoesNotExist:
        raise CommandError(f"There is no user named {username}.") from None


def membership_of(user: User, team: Team) -> Membership:
    try:
        return Membership.objects.get(user=user, team=team)
    except Membership.DoesNotExist:
        raise CommandError(f"{user} is not in the team {team.slug}.") from None


def add_limit_arguments(parser: CommandParser, what: str) -> None:
    """`--requests-per-minute` and so on; `what` tells whose limits these are."""
    group = parser.add_argument_group("limits", what)
    for name in LABELS:
        group.add_argument(f"--{name.replace('_', '-')}", type=_limit, metavar="N")


def with_given_limits(limits: Limits, options: dict[str, Any]) -> Limits:
    """Those that were given take the place of the old ones; `none` takes one away."""
    given = {name: options[name] or None for name in LABELS if options[name] is not None}
    changed = limits._replace(**given)
    validate(changed)
    return changed


def _limit(text: str) -> int:
    """0 for none: argparse has its own use for None."""
    if text == "none":
        return 0
    try:
        return int(text)
    except ValueError:
        raise ArgumentTypeError(f"invalid number or none value: {text!r}") from None


def from_environment(variable: str) -> str:
    """A secret is named, never given: arguments are shown to every user of the machine."""
    if value := os.environ.get(variable, ""):
        return value
    raise CommandError(f"The environment variable {variable} is not set, or empty.")


def _sentence(error: ValidationError) -> str:
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return " ".join(
        f"{field}: {' '.join(messages)}" if field != "__all__" else " ".join(messages)
        for field, messages in error.message_dict.items()
    )
