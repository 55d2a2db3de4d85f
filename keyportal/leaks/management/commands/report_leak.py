import sys
from pathlib import Path
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from keyportal.keys import keystring
from keyportal.leaks import handling
from keyportal.leaks.reports import OPERATOR, ReportContents, ReportedKey
from keyportal.teams.management.operator import OperatorCommand


class Command(OperatorCommand):
    help = (
        "Disable leaked API keys, delete leaked management keys, and tell their owners. "
        "Reads text with any number of keys in it from standard input, or from a file."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            nargs="?",
            metavar="FILE",
            help="default: standard input. Never a key: arguments are shown to every user of the "
            "machine, and kept in the shell's history",
        )

    @sensitive_variables()
    def handle(self, **options: Any) -> None:
        keys = keystring.find_keys(_read_text(options["file"]))
        if not keys:
            raise CommandError("There is no whole API key of this service in it.")
        ended = handling.handle_report(ReportContents([ReportedKey(key) for key in keys], OPERATOR))
        for one in ended:
            self.note(f"{one.fate.capitalize()} {one.key} of {one.key.team.slug}.")
        if len(ended) < len(keys):
            self.note(f"Not live, or reported before: {len(keys) - len(ended)} of {len(keys)}.")
        if ended:
            self.note("The running server mails those whom it concerns.")


def _read_text(file: str | None) -> str:
    if file is None or file == "-":
        return sys.stdin.read()
    if keystring.redact(file) != file:
        raise CommandError(
            "A key is no argument: by now it is in the shell's history. Report it on standard "
            "input all the same."
        )
    try:
        return Path(file).read_text(errors="replace")
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}.") from None
