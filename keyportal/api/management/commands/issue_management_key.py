from datetime import timedelta
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from keyportal.api.models import ManagementKey
from keyportal.api.scopes import Scope
from keyportal.database.clock import database_now
from keyportal.keys.exceptions import KeyActionError
from keyportal.keys.rules.permissions import (
    Endpoints,
    Permissions,
    normalize_networks,
    normalize_patterns,
)
from keyportal.teams.management.operator import (
    OperatorCommand,
    get_membership,
    get_team,
    get_user,
)


class Command(OperatorCommand):
    help = "Create a management key and print its key string on standard output, this once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--team", required=True, metavar="SLUG")
        parser.add_argument(
            "--owner",
            required=True,
            metavar="USERNAME",
            help="the key can never do more than its owner may",
        )
        parser.add_argument("--name", required=True, help="unique in the team")
        parser.add_argument(
            "--scopes",
            nargs="+",
            action="extend",
            required=True,
            choices=Scope.values,
            help="what programs may do with it",
        )
        parser.add_argument(
            "--days", type=int, default=90, help="days until it expires, 1 to 3650; default: 90"
        )
        parser.add_argument("--no-expiry", action="store_true", help="never expire")
        bounds = parser.add_argument_group("bounds", "What keys made with it may do at most.")
        bounds.add_argument("--models", nargs="+", action="extend", default=[], metavar="MODEL")
        bounds.add_argument("--endpoints", choices=Endpoints.values, default=Endpoints.ALL.value)
        bounds.add_argument("--networks", nargs="+", action="extend", default=[], metavar="CIDR")

    @sensitive_variables("key_string")
    def handle(self, **options: Any) -> None:
        team, owner = get_team(options["team"]), get_user(options["owner"])
        get_membership(owner, team)
        name, days = options["name"].strip(), options["days"]
        if not 1 <= days <= 3650:
            raise CommandError("--days must be from 1 to 3650.")
        ManagementKey(name=name).clean_fields(
            exclude={"team", "owner", "scopes", "public_id", "prefix", "digest", "last4"}
        )
        try:
            _, key_string = ManagementKey.objects.issue(
                team=team,
                owner=owner,
                name=name,
                actor=None,
                scopes=[Scope(scope) for scope in options["scopes"]],
                permissions=Permissions(
                    normalize_patterns(options["models"]),
                    Endpoints(options["endpoints"]),
                    normalize_networks(options["networks"]),
                ),
                expires_at=None if options["no_expiry"] else database_now() + timedelta(days=days),
            )
        except KeyActionError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(key_string.text)
