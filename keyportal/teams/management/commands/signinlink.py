from typing import Any
from urllib.parse import urljoin

from django.conf import settings
from django.core.management.base import CommandError, CommandParser

from keyportal.teams.management.operator import OperatorCommand, get_user
from keyportal.teams.sign_in import links


class Command(OperatorCommand):
    help = (
        "Print a link that signs a user in, once and within ten minutes. "
        "A second factor is still asked for."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", metavar="USERNAME")

    def handle(self, **options: Any) -> None:
        user = get_user(options["user"])
        if not user.is_active:
            raise CommandError(f"{user} is inactive.")
        root = settings.PUBLIC_URL or f"http://127.0.0.1:{settings.PORT}"
        self.stdout.write(urljoin(root, links.path_for(user)))
