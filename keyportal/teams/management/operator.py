"""What the operators' commands share: names become rows, mistakes become sentences.

Results go to standard output, everything else to standard error; no command ever asks.
"""

import os
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError

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
