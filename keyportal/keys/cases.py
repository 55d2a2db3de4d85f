"""A report of a leak while it is worked off: what it has ended, and what may be mailed of that.

Keys of every kind come together here, so that each person gets one letter for a report, whatever
it holds.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from keyportal.keys.letter_counts import Allowed, LetterCount
from keyportal.keys.reports import SOMEBODY, Report
from keyportal.teams.models import Team, User

API_KEY, MANAGEMENT_KEY = "API key", "management key"


class Leaked(Protocol):
    """A key of any kind, of which this app knows no more than whose it is."""

    name: str
    public_id: str
    owner_id: int

    @property
    def team(self) -> Team: ...

    @property
    def owner(self) -> User: ...


class Ended(NamedTuple):
    """A key that was ended, as it was; `is_deleted` or else it is disabled."""

    key: Leaked
    is_deleted: bool
    url: str
    """Where it was found; empty: nobody said so."""
    allowed: Allowed | None
    """None: it is no reason to write to anybody, but is told where one is written anyway."""
    kind: str = API_KEY
    page: str = "keys:list"
    """Where its team looks after it."""
    works_again: bool = False
    """Whether its rotation enables it."""


# GitHub and operators flood nobody with letters.
UNCOUNTED = Allowed()


@dataclass
class Case:
    report: Report
    address: str | None = None
    ended: list[Ended] = field(default_factory=list)
    _allowed: dict[tuple[int, str], Allowed] = field(default_factory=dict)

    @cached_property
    def urls(self) -> dict[bytes, str]:
        """Where each key was found, by its digest."""
        return {found.digest: found.url for found in self.report.found}

    @property
    def is_by_somebody(self) -> bool:
        return self.report.reporter == SOMEBODY

    def in_words(self, url: str) -> str:
        """As the audit has it: who reported a key, and where it was found if that is known."""
        return f"reported by {self.report.reporter}" + (f", found at {url}" if url else "")

    def allow(self, team: Team, person: str) -> Allowed | None:
        """Whether people are written to of a key that this person may have readied for it.

        Inside the transaction that ends the key. A report makes one letter, so the second of that
        person's keys in it costs nothing.
        """
        if not self.is_by_somebody:
            return UNCOUNTED
        allowed = self._allowed.get((team.pk, person)) or LetterCount.objects.allow(team, person)
        if allowed is not None:
            self._allowed[team.pk, person] = allowed
        return allowed
