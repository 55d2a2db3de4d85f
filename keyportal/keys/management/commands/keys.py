import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error
from django.views.decorators.debug import sensitive_variables

from keyportal.keys.exceptions import KeyActionError
from keyportal.keys.keystring import redact
from keyportal.keys.management.subcommands import SUBCOMMANDS, Outcome, no_such_key
from keyportal.keys.models import ApiKey
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = "List, create, show, rotate, disable, enable, manage, unmanage or delete API keys."

    def run_from_argv(self, argv: list[str]) -> None:
        """Report wrong options like every other error: in one line, with exit code 1."""
        try:
            super().run_from_argv(argv)
        except CommandError as error:
            self.stderr.write(f"CommandError: {redact(str(error))}")
            sys.exit(error.returncode)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # So that the parser raises `CommandError` for wrong options, and does not exit.
        self._called_from_command_line = False
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        subparsers = parser.add_subparsers(dest="subcommand", required=True, metavar="SUBCOMMAND")
        for name, subcommand in SUBCOMMANDS.items():
            subparser = subparsers.add_parser(
                name, help=subcommand.help, description=subcommand.help
            )
            subcommand.add_arguments(subparser)
            subparser.add_argument(
                "--json", action="store_true", dest="is_json", help="print one JSON document"
            )

    @sensitive_variables("outcome")
    def handle(self, **options: Any) -> None:
        outcome = self._run(options)
        if options["is_json"]:
            self.stdout.write(json.dumps(outcome.document, cls=DjangoJSONEncoder, indent=2))
            return
        if outcome.note:
            self.note(outcome.note)
        for line in outcome.lines:
            self.stdout.write(line)

    @sensitive_variables()
    def _run(self, options: dict[str, Any]) -> Outcome:
        try:
            return SUBCOMMANDS[options["subcommand"]].run(options)
        except KeyActionError as error:
            raise CommandError(str(error)) from error
        except ApiKey.DoesNotExist:
            raise no_such_key(options["public_id"]) from None
        except Error as error:
            raise CommandError(" ".join(str(error).split())) from error
