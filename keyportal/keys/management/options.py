"""Options of the subcommands of `manage.py keys`."""

from django.core.management.base import CommandParser

from keyportal.keys.management.issuing import NEVER
from keyportal.keys.rotation import GracePeriod
from keyportal.keys.rules.permissions import Endpoints
from keyportal.teams.management.operator import add_limit_arguments


def add_key_arguments(parser: CommandParser) -> None:
    parser.add_argument(
        "public_id", metavar="PUBLIC_ID", help="the eight characters after the key's prefix"
    )
    parser.add_argument("--team", metavar="SLUG", help="refuse a key of any other team")


def add_enable_arguments(parser: CommandParser) -> None:
    add_key_arguments(parser)
    parser.add_argument(
        "--accept-leak",
        action="store_true",
        help="also enable a key that was reported as leaked, with the leaked secret",
    )


def add_rotate_arguments(parser: CommandParser) -> None:
    add_key_arguments(parser)
    parser.add_argument(
        "--grace",
        choices=GracePeriod.values,
        default=GracePeriod.NOW.value,
        help="how long the old secret still works; default: now, not at all",
    )


def add_list_arguments(parser: CommandParser) -> None:
    parser.add_argument("--team", metavar="SLUG", help="list only keys of this team")


def add_create_arguments(parser: CommandParser) -> None:
    parser.add_argument("--team", required=True, metavar="SLUG")
    parser.add_argument("--owner", required=True, metavar="USER", help="a member of the team")
    parser.add_argument("--name", required=True, help="unique in the team")
    parser.add_argument("--description", default="", metavar="TEXT", help="what the key is for")
    parser.add_argument(
        "--tags",
        nargs="+",
        action="extend",
        default=[],
        metavar="TAG",
        help="words to sort keys by, separated by commas or spaces",
    )
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="a template of the team, for the permissions and the expiry that have no option",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        action="extend",
        metavar="MODEL",
        help="allowed models: names or patterns such as public/*; default: all that the template "
        "or the policy allows",
    )
    parser.add_argument("--endpoints", choices=Endpoints.values)
    parser.add_argument(
        "--networks",
        nargs="+",
        action="extend",
        metavar="CIDR",
        help="allowed networks; default: the template's, or all",
    )
    parser.add_argument(
        "--expires",
        metavar="WHEN",
        help=f"an ISO 8601 time (UTC if it has no offset), a date (until the end of that day, "
        f"UTC), a duration such as 30d, or {NEVER}; default: the "
        f"template's lifetime, or {NEVER}",
    )
    parser.add_argument(
        "--managed",
        action="store_true",
        dest="is_managed",
        help="only admins can change its permissions, limits, expiry and owner, or enable it",
    )
    add_limit_arguments(
        parser,
        "Default: the team's limits of new keys; `none` removes one.",
    )
