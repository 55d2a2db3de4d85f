"""What a report of a leak says: which keys, and who says so.

Anybody's report is searched for keys as it stands: JSON, a form or a text, it matters not how
they are wrapped. Of a report that GitHub has signed we also take where they were found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_plus

import msgspec

from keyportal.keys import keystring
from keyportal.leaks import github

REPORT_PATH = "/leaks/report"
MAX_BYTES = 64 * 1024  # Over a thousand keys; GitHub sends a handful at a time.
ANONYMOUS = "somebody who holds it"
GITHUB = "GitHub"
OPERATOR = "an operator"


@dataclass(frozen=True, slots=True, repr=False)
class ReportedKey:
    """A well-formed key that somebody holds who should not, and perhaps where it was."""

    key: str
    url: str = ""

    @property
    def digest(self) -> bytes:
        return keystring.digest(self.key.encode())


@dataclass(frozen=True, slots=True)
class ReportContents:
    found: list[ReportedKey]
    reporter: str = ANONYMOUS


class GitHubMatch(msgspec.Struct):
    """One of GitHub's; what else it says is not looked at."""

    token: str
    url: str | None = None

    def __repr__(self) -> str:
        return "<Match>"


class UnreadableReport(Exception):
    """Signed by GitHub, and not in the form that GitHub has published."""


def parse_report(body: bytes, headers: Mapping[str, str]) -> ReportContents:
    """Raises `github.NotGitHub` for a signature that doesn't hold, before it looks at any key."""
    if github.claims_to_be_github(headers):
        github.require_signature(body, headers)
        return ReportContents(_parse_github_report(body), GITHUB)
    return ReportContents([ReportedKey(key) for key in keystring.find_keys(_decode(body))])


def _parse_github_report(body: bytes) -> list[ReportedKey]:
    try:
        matches = msgspec.json.decode(body, type=list[GitHubMatch])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        # What is wrong is not told on: Python may quote the body, which may hold anything.
        raise UnreadableReport from None
    return [
        ReportedKey(key, _printable_url(match.url or ""))
        for match in matches
        for key in keystring.find_keys(match.token)
    ]


def _printable_url(url: str) -> str:
    """It is stored and shown, and may hold a key, or characters that no database takes."""
    return keystring.redact("".join(filter(str.isprintable, url)))


def _decode(body: bytes) -> str:
    text = body.decode("latin-1")
    # No browser writes letters, digits, `-` or `_` as %2D; whoever does is understood as well.
    return f"{text} {unquote_plus(text)}" if "%" in text else text
