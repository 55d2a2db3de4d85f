"""Parsing of leak reports: which keys, and who reports them.

An anonymous report can be JSON, a form or text: the whole body is searched for keys. A report that
GitHub has signed is JSON, and also says where each key was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

import msgspec

from keyportal.keys import keystring
from keyportal.leaks import github

REPORT_PATH = "/leaks/report"
MAX_BYTES = 64 * 1024  # Over a thousand keys; GitHub sends a handful at a time.
ANONYMOUS = "someone who has it"
GITHUB = "GitHub"
OPERATOR = "an operator"


@dataclass(frozen=True, slots=True, repr=False)
class ReportedKey:
    """A well-formed key in a report, and the URL where it was found, if the report says so."""

    text: str
    url: str = ""

    @property
    def digest(self) -> bytes:
        return keystring.digest(self.text.encode())


@dataclass(frozen=True, slots=True)
class ReportContents:
    keys: list[ReportedKey]
    reporter: str = ANONYMOUS


class GitHubMatch(msgspec.Struct):
    """An entry of GitHub's report; its other fields are ignored."""

    token: str
    url: str | None = None

    def __repr__(self) -> str:
        return "<Match>"


class UnreadableReport(Exception):
    """GitHub has signed the report, but it is not in the form that GitHub has published."""


def parse_report(body: bytes, headers: Mapping[str, str]) -> ReportContents:
    """Raises `github.NotGitHub` for a wrong signature, before it looks for keys, and
    `UnreadableReport`.
    """
    if github.claims_to_be_github(headers):
        github.require_signature(body, headers)
        return ReportContents(_parse_github_report(body), GITHUB)
    return ReportContents([ReportedKey(key) for key in keystring.find_keys(_decode(body))])


def _parse_github_report(body: bytes) -> list[ReportedKey]:
    try:
        matches = msgspec.json.decode(body, type=list[GitHubMatch])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # Python's message may quote the body, which can hold keys.
        raise UnreadableReport from None
    return [
        ReportedKey(key, _printable_url(match.url or ""))
        for match in matches
        for key in keystring.find_keys(match.token)
    ]


def _printable_url(url: str) -> str:
    """The URL for storage and display, without key strings and control characters."""
    return keystring.redact("".join(filter(str.isprintable, url)))


def _decode(body: bytes) -> str:
    text = body.decode("latin-1")
    # Browsers don't percent-encode letters, digits, `-` and `_`, but other clients may.
    return f"{text} {unquote_plus(text)}" if "%" in text else text
