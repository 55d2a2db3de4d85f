from argparse import ArgumentTypeError, BooleanOptionalAction
from collections.abc import Callable
from datetime import date
from typing import Any, TypeVar

from django.core.management.base import CommandError, CommandParser
from django.db import IntegrityError, transaction

from keyportal.catalog.models import ServedModel
from keyportal.operators.model_details import possible_successors, save_details
from keyportal.teams.management.operator import OperatorCommand, get_team
from keyportal.teams.models import Team

T = TypeVar("T")
NONE = "none"
NULLABLE = ("context_length", "retires_on", "successor")
COLUMNS = ("description", "takes_pictures", "takes_tools", "prices", *NULLABLE)


def _or_none(parse: Callable[[str], T]) -> Callable[[str], T | str]:
    """`none` stays text, because argparse uses None for an option that was not given."""

    def parsed(text: str) -> T | str:
        try:
            return NONE if text == NONE else parse(text)
        except ValueError:
            raise ArgumentTypeError(f"invalid value: {text!r}") from None

    return parsed


class Command(OperatorCommand):
    help = "Say what people need to choose a model, for which teams it is, and when it goes away."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("model", metavar="NAME", help="such as public/llama-70b")
        parser.add_argument("--description", metavar="TEXT")
        parser.add_argument("--context-length", type=_or_none(int), metavar="N")
        parser.add_argument("--pictures", dest="takes_pictures", action=BooleanOptionalAction)
        parser.add_argument("--tools", dest="takes_tools", action=BooleanOptionalAction)
        parser.add_argument("--prices", metavar="TEXT")
        parser.add_argument(
            "--only-teams", nargs="+", metavar="SLUG", help="`all`: a public model for all teams"
        )
        parser.add_argument("--retires-on", type=_or_none(date.fromisoformat), metavar="DATE")
        parser.add_argument("--successor", metavar="NAME", help="the model to use instead")

    def handle(self, **options: Any) -> None:
        changes = {name: options[name] for name in COLUMNS if options[name] is not None}
        if not changes and not options["only_teams"]:
            raise CommandError("Nothing to change: give an option.")
        try:
            with transaction.atomic():
                model = _locked(options["model"])
                mails = _change(model, changes, options["only_teams"])
        except IntegrityError:
            raise CommandError("One of these teams was deleted meanwhile.") from None
        self.stdout.write(model.name)
        if mails:
            self.note(f"Owners of keys that call it get a mail: {mails}.")


def _locked(name: str) -> ServedModel:
    model = ServedModel.objects.select_for_update(no_key=True).filter(name=name).first()
    if model is None:
        raise CommandError(f"There is no model named {name}.")
    return model


def _change(model: ServedModel, changes: dict[str, Any], slugs: list[str] | None) -> int:
    teams = _teams(model, slugs) if slugs else None
    if "successor" in changes:
        changes["successor"] = _successor(model, changes["successor"])
    for name, value in changes.items():
        setattr(model, name, None if name in NULLABLE and value == NONE else value)
    model.full_clean()
    return save_details(model, changes, teams)


def _successor(model: ServedModel, name: str) -> ServedModel | None:
    if name == NONE:
        return None
    successor = possible_successors(model).filter(name=name).first()
    if successor is None:
        raise CommandError(
            f"{name} can't follow: it is no public model, and none of the same team."
        )
    return successor


def _teams(model: ServedModel, slugs: list[str]) -> list[Team]:
    if model.team:
        raise CommandError(f"{model} is a model of the team {model.team.slug} alone.")
    return [] if slugs == ["all"] else [get_team(slug) for slug in slugs]
