from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from keyportal.keys.forms.policy import MAKERS, PolicyForm
from keyportal.keys.rules.permissions import Endpoints
from keyportal.keys.rules.policy import set_policy
from keyportal.keys.rules.validators import split_words
from keyportal.teams.management.operator import OperatorCommand, get_team
from keyportal.teams.models import lock_team
from keyportal.teams.policy import Policy

NONE = "none"


class Command(OperatorCommand):
    help = "Change what a team asks of its keys; what isn't given stays, `none` takes a rule away."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("--longest-days", metavar="N", help="the longest that a key may live")
        parser.add_argument("--must-expire", choices=["yes", "no"])
        parser.add_argument("--rotation-days", metavar="N", help="when rotation is advised")
        parser.add_argument("--models", metavar="NAMES", help="such as 'public/* team/large'")
        parser.add_argument(
            "--endpoints", metavar="KINDS", help=f"some of {', '.join(Endpoints.values[1:])}"
        )
        parser.add_argument("--keys-per-member", metavar="N")
        parser.add_argument("--name-pattern", metavar="GLOB", help="such as ci-*")
        parser.add_argument("--creators", choices=[role.value for role in MAKERS])

    def handle(self, **options: Any) -> None:
        named = get_team(options["team"])
        given = {name: options[name] for name in Policy._fields if options[name] is not None}
        if not given:
            raise CommandError("Nothing to change: give a rule, such as --longest-days 90.")
        with lock_team(named) as team:
            # The rules that stay are those of this moment: an admin may be changing them.
            form = PolicyForm(_typed(team.policy) | _typed_by_operator(given), policy=team.policy)
            if not form.is_valid():
                raise ValidationError(form.errors.as_data())
            set_policy(team, form.policy, actor=None)
        for label, words in form.policy.describe().items():
            self.stdout.write(f"{label}: {words}")


def _typed(policy: Policy) -> dict[str, Any]:
    """As the form would have it."""
    typed = policy._asdict() | {"models": " ".join(policy.models)}
    return {name: "" if value is None else value for name, value in typed.items()}


def _typed_by_operator(given: dict[str, str]) -> dict[str, Any]:
    typed: dict[str, Any] = {name: "" if value == NONE else value for name, value in given.items()}
    if "endpoints" in typed:
        typed["endpoints"] = split_words(typed["endpoints"])
    if "must_expire" in typed:
        typed["must_expire"] = typed["must_expire"] == "yes"
    return typed
