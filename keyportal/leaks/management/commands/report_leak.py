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
        "Disable leaked API keys, delete leaked management keys, and mail their owners. "
        "Reads text that contains any number of keys from standard input or a file."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "file",
            nargs="?",
            metavar="FILE",
            help="default: standard input. Don't give a key as an argument: other users of the "
            "machine can see arguments, and the shell's history stores them",
        )

    @sensitive_variables()
    def handle(self, **options: Any) -> None:
        keys = keystring.find_keys(_read_text(options["file"]))
        if not keys:
            raise CommandError("The text contains no complete key of this service.")
        contents = ReportContents([ReportedKey(key) for key in keys], OPERATOR)
        stopped = handling.handle_report(contents)
        for each in stopped:
            self.note(f"{each.outcome.capitalize()} {each.key} of {each.key.team.slug}.")
        if len(stopped) < len(keys):
            count = len(keys) - len(stopped)
            self.note(f"Not live, or already reported: {count} of {len(keys)}.")
        if stopped:
            self.note("The running server mails the owners and the team's admins.")


def _read_text(file: str | None) -> str:
    if file is None or file == "-":
        return sys.stdin.read()
    if keystring.redact(file) != file:
        raise CommandError(
            "Don't give a key as an argument: it is in the shell's history now. Report it on "
            "standard input."
        )
    try:
        return Path(file).read_text(errors="replace")
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}.") from None
