from typing import Any

from django.core.management.base import CommandError, CommandParser

from keyportal.catalog.aliases import Alias
from keyportal.catalog.former_names import require_free
from keyportal.catalog.models import ServedModel
from keyportal.teams.management.operator import OperatorCommand, get_team
from keyportal.teams.models import Team


class Command(OperatorCommand):
    help = "List other names of models, make or change one, or delete it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", nargs="?", metavar="ALIAS", help="such as gpt-4o")
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--model", metavar="NAME", help="where it leads")
        action.add_argument("--delete", action="store_true")
        parser.add_argument("--team", metavar="SLUG", help="only for this team; default: for all")

    def handle(self, **options: Any) -> None:
        name, team = options["name"], get_team(options["team"]) if options["team"] else None
        if bool(name) != bool(options["model"] or options["delete"]):
            raise CommandError("An alias needs --model or --delete, and these need an alias.")
        if options["model"]:
            self._lead(name, options["model"], team)
        elif options["delete"]:
            self._delete(name, team)
        else:
            self._list(team)

    def _lead(self, name: str, model_name: str, team: Team | None) -> None:
        model = ServedModel.objects.filter(name=model_name).first()
        if model is None:
            raise CommandError(f"There is no model named {model_name}.")
        require_free(name)
        Alias(name=name, model=model, team=team).clean_fields()
        Alias.objects.update_or_create(name=name, team=team, defaults={"model": model})
        self.stdout.write(name)

    def _delete(self, name: str, team: Team | None) -> None:
        alias = Alias.objects.filter(name=name, team=team).first()
        if alias is None:
            raise CommandError(
                f"There is no alias {name} for {team.slug if team else 'all teams'}."
            )
        alias.delete()
        self.note(f"Deleted {name}.")

    def _list(self, team: Team | None) -> None:
        aliases = Alias.objects.select_related("model", "team").order_by("name", "team__slug")
        for alias in aliases.filter(team=team) if team else aliases:
            self.stdout.write(f"{alias}\t{alias.model}\t{alias.team.slug if alias.team else 'all'}")
