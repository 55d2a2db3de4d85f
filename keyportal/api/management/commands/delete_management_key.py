from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.api.models import ManagementKey
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = "Delete a management key. API keys that were made with it are not deleted."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "public_id",
            help="the eight characters after the prefix, as the list of management keys shows them",
        )

    def handle(self, **options: Any) -> None:
        try:
            key = ManagementKey.objects.get(public_id=options["public_id"])
            key.revoke(actor=None)
        except ManagementKey.DoesNotExist:
            raise CommandError(
                f"There is no management key with the public id {options['public_id']}."
            ) from None
        self.note(f"Deleted {key}.")
