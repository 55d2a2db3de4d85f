"""A leak report while it is handled, and the keys that it has stopped.

API keys and management keys are collected here, so that each person gets one mail for a report,
whatever kinds of keys it holds.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

from keyportal.leaks.reports import ANONYMOUS, ReportContents
from keyportal.teams.models import Team, User

API_KEY, MANAGEMENT_KEY = "API key", "management key"


class LeakedKey(Protocol):
    """A key of any kind: only what this app needs of it."""

    name: str
    public_id: str
    owner_id: int

    @property
    def team(self) -> Team: ...

    @property
    def owner(self) -> User: ...


class StoppedKey(NamedTuple):
    """A key that a report has disabled or deleted, as it was before."""

    key: LeakedKey
    found_at: str
    """The URL where it was found; empty if the report has none."""
    kind: str = API_KEY
    url_name: str = "keys:list"
    """The name of the page on which its team manages it."""
    is_enabled_by_rotation: bool = False

    @property
    def outcome(self) -> str:
        """Management keys are deleted, because they can't be disabled."""
        return "deleted" if self.kind == MANAGEMENT_KEY else "disabled"


@dataclass
class LeakReport:
    contents: ReportContents
    address: str | None = None
    """The IP address of the reporter."""
    stopped: list[StoppedKey] = field(default_factory=list)

    @cached_property
    def urls(self) -> dict[bytes, str]:
        """The URL where each key was found, by the key's digest."""
        return {key.digest: key.url for key in self.contents.keys}

    @property
    def is_anonymous(self) -> bool:
        return self.contents.reporter == ANONYMOUS

    def audit_text(self, url: str) -> str:
        """For the audit log: who reported a key and, if it is known, where it was found."""
        return f"reported by {self.contents.reporter}" + (f", found at {url}" if url else "")
