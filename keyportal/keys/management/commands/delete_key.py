from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.keys.models import ApiKey
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = "Delete an API key. When the command ends, no request that starts later is served."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "public_id", help="the eight characters that the list shows after the prefix"
        )

    def handle(self, **options: Any) -> None:
        try:
            key = ApiKey.objects.get(public_id=options["public_id"])
            key.revoke(actor=None)
        except ApiKey.DoesNotExist:
            raise CommandError(
                f"There is no key with the public id {options['public_id']}."
            ) from None
        self.note(f"Deleted {key}.")
