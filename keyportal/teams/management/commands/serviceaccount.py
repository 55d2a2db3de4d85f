from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.teams.management.operator import OperatorCommand, get_team
from keyportal.teams.models import Team, User
from keyportal.teams.service_accounts import changes


class Command(OperatorCommand):
    help = "List, create, change or delete service accounts, which own keys and never sign in."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", metavar="SLUG")
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--create", metavar="NAME", help="needs --contact")
        action.add_argument("--change", metavar="NAME", help="needs --contact")
        action.add_argument("--delete", metavar="NAME", help="one that owns no keys")
        parser.add_argument("--contact", metavar="ADDRESS", help="who gets mails about its keys")

    def handle(self, **options: Any) -> None:
        team, contact = get_team(options["team"]), options["contact"]
        if bool(options["create"] or options["change"]) != bool(contact):
            raise CommandError("--create and --change need --contact, and nothing else takes it.")
        if options["create"]:
            account = changes.create(team, options["create"], contact, actor=None)
            self.stdout.write(account.username)
        elif options["change"]:
            changes.change_contact(_get_account(team, options["change"]), contact, actor=None)
        elif options["delete"]:
            self._delete(team, options["delete"])
        else:
            for account in changes.service_accounts(team):
                self.stdout.write(f"{account.username}\t{account.key_count}\t{account.contact}")

    def _delete(self, team: Team, name: str) -> None:
        try:
            changes.delete(_get_account(team, name), actor=None)
        except changes.StillOwnsKeys as refusal:
            raise CommandError(str(refusal)) from None
        self.note(f"Deleted {name} of {team.slug}.")


def _get_account(team: Team, name: str) -> User:
    """By its name in the team, or its whole user name."""
    username = name if "@" in name else changes.username(name, team)
    accounts = changes.service_accounts(team).filter(username=username)
    account: User | None = accounts.first()
    if account is None:
        raise CommandError(f"{team.slug} has no service account named {name}.")
    return account
