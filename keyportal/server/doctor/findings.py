"""What `doctor` finds."""

from typing import NamedTuple


class Finding(NamedTuple):
    check: str
    is_problem: bool
    text: str
    """What was found, and for a problem what to do."""


def ok(check: str, text: str) -> Finding:
    return Finding(check, False, text)


def problem(check: str, text: str) -> Finding:
    return Finding(check, True, text)
