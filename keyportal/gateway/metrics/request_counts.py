"""Counts of the requests that are over, by endpoint, model and team."""

from collections import Counter
from collections.abc import Callable

from keyportal.catalog.snapshot import CatalogEntry
from keyportal.gateway.metrics.ended_requests import EndedRequest
from keyportal.gateway.metrics.families import (
    DURATION,
    FIRST_BYTE,
    REFUSALS,
    REQUESTS,
    TOKENS,
    Histogram,
    Labels,
    Snapshot,
    Values,
)

# The name of a team's own model begins with the team's slug, so it is shown only on request.
TEAM_MODEL = "(team)"
# Attack: an admin of a team serves one new name after the other on the team's own server.
MAX_KNOWN = 10_000


class _Series:
    """The counts of one endpoint, model and team."""

    __slots__ = ("duration", "first_byte", "statuses", "tokens")

    def __init__(self) -> None:
        self.statuses = [0.0] * 6
        """By the first digit of the status."""
        self.duration = Histogram(DURATION.bounds)
        self.first_byte = Histogram(FIRST_BYTE.bounds)
        self.tokens = [0.0, 0.0]


class RequestCounts:
    """One per worker; an observer of ended requests.

    Measured: less than the time of one histogram in a mapped file, as prometheus-client has it.
    """

    def __init__(
        self, find_model: Callable[[str], CatalogEntry | None], *, names_teams: bool
    ) -> None:
        self._find_model = find_model
        self._names_teams = names_teams
        self._series: dict[tuple[str, str, str], _Series] = {}
        self._by_labels: dict[Labels, _Series] = {}
        self._refusals: Counter[str] = Counter()

    def __call__(self, request: EndedRequest) -> None:
        key = (request.endpoint, request.model, request.team if self._names_teams else "")
        series = self._series.get(key) or self._new_series(key)
        series.statuses[request.status // 100 if request.status < 600 else 5] += 1
        if request.first_byte_seconds is not None:
            series.first_byte.observe(request.first_byte_seconds)
        if request.code:
            self._refusals[request.code] += 1
        if request.status < 400:
            series.duration.observe(request.seconds)
        series.tokens[0] += request.prompt_tokens
        series.tokens[1] += request.completion_tokens

    def _new_series(self, key: tuple[str, str, str]) -> _Series:
        endpoint, model, team = key
        entry = self._find_model(model)
        if model and not self._names_teams and (entry is None or entry.team_id is not None):
            model = TEAM_MODEL
        labels = (endpoint, model, team)
        series = self._by_labels.setdefault(labels, _Series())
        if len(self._series) >= MAX_KNOWN:
            self._series.clear()
        self._series[key] = series
        return series

    def collect(self) -> Snapshot:
        all_series = self._by_labels.items()
        requests: list[tuple[Labels, Values]] = [
            ((*labels, f"{digit}xx"), [count])
            for labels, series in all_series
            for digit, count in enumerate(series.statuses)
            if count
        ]
        tokens: list[tuple[Labels, Values]] = [
            ((*labels, kind), [count])
            for labels, series in all_series
            for kind, count in zip(("prompt", "completion"), series.tokens, strict=True)
            if count
        ]
        return {
            REQUESTS.name: requests,
            TOKENS.name: tokens,
            DURATION.name: [(labels, series.duration.values) for labels, series in all_series],
            FIRST_BYTE.name: [(labels, series.first_byte.values) for labels, series in all_series],
            REFUSALS.name: [((code,), [float(number)]) for code, number in self._refusals.items()],
        }
