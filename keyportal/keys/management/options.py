"""What `manage.py keys` takes after each of its subcommands."""

from django.core.management.base import CommandParser

from keyportal.keys.management.issuing import NEVER
from keyportal.keys.rotation import Grace
from keyportal.keys.rules.permissions import Endpoints
from keyportal.teams.management.operator import add_limit_arguments


def of_one_key(parser: CommandParser) -> None:
    parser.add_argument(
        "public_id", metavar="PUBLIC_ID", help="the eight characters after the key's prefix"
    )
    parser.add_argument("--team", metavar="SLUG", help="refuse a key of any other team")


def of_a_rotation(parser: CommandParser) -> None:
    of_one_key(parser)
    parser.add_argument(
        "--grace",
        choices=Grace.values,
        default=Grace.NOW.value,
        help="how long the old secret lives on; default: now, not at all",
    )


def of_a_list(parser: CommandParser) -> None:
    parser.add_argument("--team", metavar="SLUG", help="only of this team")


def of_a_new_key(parser: CommandParser) -> None:
    parser.add_argument("--team", required=True, metavar="SLUG")
    parser.add_argument("--owner", required=True, metavar="USER", help="a member of the team")
    parser.add_argument("--name", required=True, help="unique in the team")
    parser.add_argument("--description", default="", metavar="TEXT", help="what it is for")
    parser.add_argument(
        "--tags",
        nargs="+",
        action="extend",
        default=[],
        metavar="TAG",
        help="words that the team sorts its keys by, divided by commas or spaces",
    )
    parser.add_argument(
        "--template",
        metavar="NAME",
        help="one of the team's, for the permissions and the end that are not given",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        action="extend",
        metavar="MODEL",
        help="names or patterns such as public/*; default: what template or policy allow",
    )
    parser.add_argument("--endpoints", choices=Endpoints.values)
    parser.add_argument(
        "--networks",
        nargs="+",
        action="extend",
        metavar="CIDR",
        help="addresses that it may be used from; default: the template's, or all",
    )
    parser.add_argument(
        "--expires",
        metavar="WHEN",
        help=f"an ISO 8601 date or time, a span such as 30d, or {NEVER}; without it and a "
        f"template, {NEVER}",
    )
    parser.add_argument(
        "--managed",
        action="store_true",
        dest="is_managed",
        help="only admins change its permissions, limits, expiry and owner, or enable it",
    )
    add_limit_arguments(
        parser,
        "`none` takes away what new keys of the team start with, which is the default.",
    )
