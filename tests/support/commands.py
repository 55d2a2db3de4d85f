"""Runs management commands in this process."""

from io import StringIO

from django.core.management import call_command


def run(*arguments: str) -> tuple[list[str], str]:
    """What a command printed: the lines on standard output, the text on standard error."""
    out, err = StringIO(), StringIO()
    call_command(*arguments, stdout=out, stderr=err)
    return out.getvalue().splitlines(), err.getvalue()
