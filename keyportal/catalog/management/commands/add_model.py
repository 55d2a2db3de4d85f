from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.db import transaction

from keyportal.catalog.models import NameTaken, ServedModel, Upstream
from keyportal.teams.management.operator import OperatorCommand, get_team


class Command(OperatorCommand):
    help = "Serve a model of a model server under a name. It can be called at once."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="such as public/deepseek-r1")
        parser.add_argument("--upstream", required=True, metavar="NAME")
        parser.add_argument(
            "--upstream-model",
            metavar="ID",
            help="its name on the server; default: the part after the first slash",
        )
        parser.add_argument("--team", metavar="SLUG", help="the only team that may call it")

    def handle(self, **options: Any) -> None:
        name: str = options["name"]
        team = get_team(options["team"]) if options["team"] else None
        try:
            upstream = Upstream.objects.get(name=options["upstream"], team=None)
        except Upstream.DoesNotExist:
            raise CommandError(f"There is no model server named {options['upstream']}.") from None
        if team and not name.startswith(f"{team.slug}/"):
            raise CommandError(f"The name of a team's model must begin with {team.slug}/.")
        upstream_model = options["upstream_model"] or name.partition("/")[2] or name
        try:
            with transaction.atomic():
                ServedModel.objects.serve(
                    name, team=team, upstream=upstream, upstream_model=upstream_model
                )
        except NameTaken as error:
            raise CommandError(str(error)) from None
        self.stdout.write(name)
