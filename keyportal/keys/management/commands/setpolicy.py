from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser

from keyportal.keys.forms.policy import CREATOR_ROLES, PolicyForm
from keyportal.keys.rules.permissions import Endpoints
from keyportal.keys.rules.policy import set_policy
from keyportal.keys.rules.validators import split_words
from keyportal.teams.access import lock_team
from keyportal.teams.management.operator import OperatorCommand, get_team
from keyportal.teams.models import Role
from keyportal.teams.policy import Policy

NONE = "none"


class Command(OperatorCommand):
    help = "Change a team's policy. Rules without an option stay; `none` removes a rule."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        parser.add_argument("--max-lifetime-days", metavar="N", help="maximum lifetime of a key")
        parser.add_argument("--must-expire", choices=["yes", "no"])
        parser.add_argument(
            "--rotation-days", metavar="N", help="age of a secret from which rotation is advised"
        )
        parser.add_argument("--models", metavar="NAMES", help="such as 'public/* team/large'")
        parser.add_argument(
            "--endpoints", metavar="KINDS", help=f"some of {', '.join(Endpoints.values[1:])}"
        )
        parser.add_argument("--max-keys-per-member", metavar="N")
        parser.add_argument("--name-pattern", metavar="GLOB", help="such as ci-*")
        parser.add_argument("--min-creator-role", choices=[role.value for role in CREATOR_ROLES])
        parser.add_argument(
            "--second-factor-days", metavar="N", help="days to set up a second factor; 0: at once"
        )
        parser.add_argument("--service-accounts-only", choices=["yes", "no"])

    def handle(self, **options: Any) -> None:
        team = get_team(options["team"])
        given = {name: options[name] for name in Policy._fields if options[name] is not None}
        if not given:
            raise CommandError("Nothing to change: set a rule, such as --max-lifetime-days 90.")
        with lock_team(team, actor=None, role=Role.ADMIN) as locked:
            # Read under the lock: an admin may be changing the other rules at this moment.
            policy = locked.policy
            form = PolicyForm(_form_data(policy) | _option_data(given), policy=policy)
            if not form.is_valid():
                raise ValidationError(form.errors.as_data())
            set_policy(locked, form.policy, actor=None)
        for label, words in form.policy.describe().items():
            self.stdout.write(f"{label}: {words}")


def _form_data(policy: Policy) -> dict[str, Any]:
    """A policy as data of `PolicyForm`."""
    data = policy._asdict() | {"models": " ".join(policy.models)}
    return {name: "" if value is None else value for name, value in data.items()}


def _option_data(given: dict[str, str]) -> dict[str, Any]:
    data: dict[str, Any] = {name: "" if value == NONE else value for name, value in given.items()}
    if "endpoints" in data:
        data["endpoints"] = split_words(data["endpoints"])
    for name in ("must_expire", "service_accounts_only"):
        if name in data:
            data[name] = data[name] == "yes"
    return data
