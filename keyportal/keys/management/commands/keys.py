import json
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import Error
from django.views.decorators.debug import sensitive_variables

from keyportal.keys.exceptions import KeyActionError
from keyportal.keys.keystring import redact
from keyportal.keys.management.subcommands import ACTS, Outcome, no_such
from keyportal.keys.models import ApiKey
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = "List, create, show, rotate, disable, enable, manage, unmanage or delete API keys."

    def run_from_argv(self, argv: list[str]) -> None:
        """What is wrong with the options is told like all else: in one line, with exit code 1."""
        try:
            super().run_from_argv(argv)
        except CommandError as error:
            self.stderr.write(f"CommandError: {redact(str(error))}")
            sys.exit(error.returncode)

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        # Of a command that was not called from the command line, a parser raises what is wrong.
        self._called_from_command_line = False
        return super().create_parser(prog_name, subcommand, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        subparsers = parser.add_subparsers(dest="act", required=True, metavar="SUBCOMMAND")
        for name, act in ACTS.items():
            subparser = subparsers.add_parser(name, help=act.help, description=act.help)
            act.add_arguments(subparser)
            subparser.add_argument(
                "--json", action="store_true", dest="is_json", help="print one JSON document"
            )

    @sensitive_variables("outcome")
    def handle(self, **options: Any) -> None:
        outcome = self._do(options)
        if options["is_json"]:
            self.stdout.write(json.dumps(outcome.told, cls=DjangoJSONEncoder, indent=2))
            return
        if outcome.note:
            self.note(outcome.note)
        for line in outcome.lines:
            self.stdout.write(line)

    @sensitive_variables()
    def _do(self, options: dict[str, Any]) -> Outcome:
        try:
            return ACTS[options["act"]].do(options)
        except KeyActionError as refusal:
            raise CommandError(str(refusal)) from refusal
        except ApiKey.DoesNotExist:
            raise no_such(options["public_id"]) from None
        except Error as error:
            raise CommandError(" ".join(str(error).split())) from error
