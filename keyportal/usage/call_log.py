"""The list of the latest calls, by keyset pagination: as fast with a million rows as with fifty.

A page starts after a given row instead of at an offset, so the database neither counts all rows
nor skips the earlier ones. A filter that matches few rows searches at most `MAX_CALLS_SEARCHED`
rows for one page; the next page continues from there.
"""

import json
import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db.models import Q
from django.shortcuts import get_object_or_404

from keyportal.audit.key_names import KeyName, key_names
from keyportal.teams.models import Team
from keyportal.usage.models import Call, CallQuerySet
from keyportal.usage.reports.charts import duration
from keyportal.usage.reports.report import Selection

PAGE_SIZE = 50
CLIENT_LEFT = 499
MAX_CALLS_SEARCHED = 50_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Cursor:
    """A row in the list, and whether the page has the newer or the older rows."""

    started_at: datetime
    pk: int
    is_newer: bool = False

    def __str__(self) -> str:
        sign = "-" if self.is_newer else ""
        return f"{sign}{(self.started_at - EPOCH) // MICROSECOND}.{self.pk}"

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        """The inverse of `str()`; None for invalid text."""
        match = re.fullmatch(r"(-?)(\d{1,16})\.(\d{1,18})", text, re.ASCII)
        if not match:
            return None
        return cls(EPOCH + int(match[2]) * MICROSECOND, int(match[3]), bool(match[1]))

    @property
    def after(self) -> Q:
        """The rows after this one. The first condition is redundant, but lets an index be used."""
        lookup, moment = ("gt" if self.is_newer else "lt"), self.started_at
        same = Q(started_at=moment, **{f"pk__{lookup}": self.pk})
        return Q(**{f"started_at__{lookup}e": moment}) & (
            Q(**{f"started_at__{lookup}": moment}) | same
        )

    @property
    def up_to(self) -> Q:
        """This row and those before it. Here too, the first condition lets an index be used."""
        lookup = "lte" if self.is_newer else "gte"
        return Q(**{f"started_at__{lookup}": self.started_at}) & ~self.after


# What became of a route, for people. A number is the status of the model server's answer.
_OUTCOMES = {
    "UpstreamFailed": "Could not be reached, or broke off its answer",
    "UpstreamConnectTimeout": "Took too long to take the connection",
    "UpstreamTimedOut": "Took too long to answer",
    "CancelledError": "The call ended before the answer was complete",
}


class Attempt(NamedTuple):
    """A route that was tried, as the call's page displays it."""

    upstream: str
    model: str
    outcome: str
    duration: str


class Row(NamedTuple):
    """A call as the list displays it."""

    call: Call
    key: KeyName

    @property
    def first_byte(self) -> str:
        return duration(self.call.first_byte_ms)

    @property
    def duration(self) -> str:
        return duration(self.call.duration_ms)

    @property
    def attempts(self) -> list[Attempt]:
        """The routes that were tried, in turn."""
        return [
            Attempt(
                upstream,
                model,
                f"Answered {outcome}" if outcome.isdigit() else _OUTCOMES.get(outcome, outcome),
                duration(milliseconds),
            )
            for upstream, model, outcome, milliseconds in json.loads(self.call.attempts or "[]")
        ]

    @property
    def ended_at(self) -> datetime:
        return self.call.started_at + timedelta(milliseconds=self.call.duration_ms)

    @property
    def reason(self) -> str:
        """Why the call was not served, if the caller got no error of ours."""
        call = self.call
        if call.error_message or call.status < 400:
            return ""
        if call.status == CLIENT_LEFT:
            return "The caller closed the connection."
        if self.attempts and self.attempts[-1].outcome == f"Answered {call.status}":
            return "The model server's own answer, which is not kept."
        return "The model server ended its answer with an error." if self.attempts else ""

    @property
    def prompt_details(self) -> str:
        """Such as `1,200 cached, 80 audio`; empty if the model server reported none."""
        call = self.call
        return _details(
            (call.cached_tokens, "cached"),
            (call.cache_write_tokens - call.cache_write_1h_tokens, "written to the cache"),
            (call.cache_write_1h_tokens, "written to the cache for 1 h"),
            (call.audio_prompt_tokens, "audio"),
            (call.image_prompt_tokens, "image"),
        )

    @property
    def completion_details(self) -> str:
        call = self.call
        return _details(
            (call.reasoning_tokens, "reasoning"),
            (call.audio_completion_tokens, "audio"),
            (call.image_completion_tokens, "image"),
            (call.images, "image" if call.images == 1 else "images"),
        )


def _details(*counts: tuple[int, str]) -> str:
    return ", ".join(f"{count:,} {name}" for count, name in counts if count > 0)


@dataclass
class CallPage:
    rows: list[Row]
    older: Cursor | None
    newer: Cursor | None
    searched_to: datetime | None = field(default=None)
    """Time of the last row searched, if the search stopped before the page was full."""


def call_page(
    team: Team, selection: Selection, status_class: str, at: str, request_id: str = ""
) -> CallPage:
    """The page at the cursor `at`; the first page if that is empty or invalid.

    Several calls can have the same request id: their callers chose it.
    """
    cursor = Cursor.parse(at)
    is_newer = cursor is not None and cursor.is_newer
    order = ("started_at", "pk") if is_newer else ("-started_at", "-pk")
    calls = Call.objects.for_team(team).order_by(*order)
    if request_id:
        calls = calls.filter(request_id=request_id)  # There is an index.
    if cursor:
        calls = calls.filter(cursor.after)
    matches = calls.filter(**selection.filters).with_status_class(status_class)
    stop = _search_end(calls, is_newer) if selection.filters or status_class else None
    if stop:
        matches = matches.filter(stop.up_to)
    rows = [*matches[: PAGE_SIZE + 1]]
    has_more, rows = len(rows) > PAGE_SIZE, rows[:PAGE_SIZE]
    forward = Cursor(rows[-1].started_at, rows[-1].pk, is_newer) if has_more else stop
    back = Cursor(rows[0].started_at, rows[0].pk, not is_newer) if rows and cursor else None
    if cursor and not rows:
        back = replace(cursor, is_newer=not is_newer)
    if is_newer:
        rows, forward, back = rows[::-1], back, forward
    names = key_names(team, {call.public_id for call in rows})
    return CallPage(
        rows=[Row(call, names[call.public_id]) for call in rows],
        older=forward,
        newer=back,
        searched_to=stop.started_at if stop and not has_more else None,
    )


def find_call(team: Team, number: int) -> Row:
    """Raises `Http404` without such a call, also for a call of another team."""
    call = get_object_or_404(Call.objects.for_team(team), pk=number)
    return Row(call, key_names(team, {call.public_id})[call.public_id])


def _search_end(calls: CallQuerySet, is_newer: bool) -> Cursor | None:
    """The row at which a search stops; None if fewer rows are left."""
    row = calls.values_list("started_at", "pk")[MAX_CALLS_SEARCHED : MAX_CALLS_SEARCHED + 1].first()
    return Cursor(row[0], row[1], is_newer) if row else None
