"""A report of a leak while it is worked off, and what it has ended.

Keys of every kind come together here, so that each person gets one letter for a report, whatever
it holds.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from keyportal.leaks.reports import ANONYMOUS, ReportContents
from keyportal.teams.models import Team, User

API_KEY, MANAGEMENT_KEY = "API key", "management key"


class LeakedKey(Protocol):
    """A key of any kind, of which this app knows no more than whose it is."""

    name: str
    public_id: str
    owner_id: int

    @property
    def team(self) -> Team: ...

    @property
    def owner(self) -> User: ...


class StoppedKey(NamedTuple):
    """A key that a report has ended, as it was."""

    key: LeakedKey
    url: str
    """Where it was found; empty: the report does not say."""
    kind: str = API_KEY
    page: str = "keys:list"
    """The page on which its team manages it."""
    works_again: bool = False
    """Whether its rotation enables it."""

    @property
    def fate(self) -> str:
        """Management keys can't be disabled."""
        return "deleted" if self.kind == MANAGEMENT_KEY else "disabled"


@dataclass
class LeakReport:
    report: ReportContents
    address: str | None = None
    ended: list[StoppedKey] = field(default_factory=list)

    @cached_property
    def urls(self) -> dict[bytes, str]:
        """Where each key was found, by its digest."""
        return {found.digest: found.url for found in self.report.found}

    @property
    def is_by_somebody(self) -> bool:
        return self.report.reporter == ANONYMOUS

    def in_words(self, url: str) -> str:
        """As the audit has it: who reported a key, and where it was found if that is known."""
        return f"reported by {self.report.reporter}" + (f", found at {url}" if url else "")
