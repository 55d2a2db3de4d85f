"""The list of latest calls, a page at a time, as quick with a million rows as with fifty.

Pages begin at a row and not at a number: nobody counts all rows, nor skips over those before. And
a filter that few rows fit searches so many at once, and goes on from there when asked.
"""

import re
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from django.db.models import Q

from keyportal.audit.key_names import KeyName, key_names
from keyportal.teams.models import Team
from keyportal.usage.models import Call, CallQuerySet
from keyportal.usage.reports.charts import duration
from keyportal.usage.reports.report import Selection

PAGE_SIZE = 50
MAX_CALLS_SEARCHED = 50_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class Cursor:
    """A row in the order of the list, and which side of it is wanted."""

    started_at: datetime
    pk: int
    is_newer: bool = False

    def __str__(self) -> str:
        sign = "-" if self.is_newer else ""
        return f"{sign}{(self.started_at - EPOCH) // MICROSECOND}.{self.pk}"

    @classmethod
    def parse(cls, text: str) -> "Cursor | None":
        found = re.fullmatch(r"(-?)(\d{1,16})\.(\d{1,18})", text, re.ASCII)
        if not found:
            return None
        return cls(EPOCH + int(found[2]) * MICROSECOND, int(found[3]), bool(found[1]))

    @property
    def after(self) -> Q:
        """The first condition says nothing more than the second, but an index can use it."""
        way, moment = ("gt" if self.is_newer else "lt"), self.started_at
        same = Q(started_at=moment, **{f"pk__{way}": self.pk})
        return Q(**{f"started_at__{way}e": moment}) & (Q(**{f"started_at__{way}": moment}) | same)


class Row(NamedTuple):
    call: Call
    key: KeyName

    @property
    def first_byte(self) -> str:
        return duration(self.call.first_byte_ms)

    @property
    def duration(self) -> str:
        return duration(self.call.duration_ms)


@dataclass
class CallPage:
    rows: list[Row]
    older: Cursor | None
    newer: Cursor | None
    searched_to: datetime | None = field(default=None)
    """Set where the search stopped before the page was full."""


def call_page(team: Team, selection: Selection, status_class: str, at: str) -> CallPage:
    place = Cursor.parse(at)
    is_newer = place is not None and place.is_newer
    order = ("started_at", "pk") if is_newer else ("-started_at", "-pk")
    every = Call.objects.for_team(team).order_by(*order)
    if place:
        every = every.filter(place.after)
    wanted = every.filter(**selection.filters).with_status_class(status_class)
    stop = _search_end(every, is_newer) if selection.filters or status_class else None
    if stop:
        wanted = wanted.exclude(stop.after)
    found = [*wanted[: PAGE_SIZE + 1]]
    has_more, rows = len(found) > PAGE_SIZE, found[:PAGE_SIZE]
    onward = Cursor(rows[-1].started_at, rows[-1].pk, is_newer) if has_more else stop
    back = Cursor(rows[0].started_at, rows[0].pk, not is_newer) if rows and place else None
    if place and not rows:
        back = replace(place, is_newer=not is_newer)
    if is_newer:
        rows, onward, back = rows[::-1], back, onward
    names = key_names(team, {call.public_id for call in rows})
    return CallPage(
        rows=[Row(call, names[call.public_id]) for call in rows],
        older=onward,
        newer=back,
        searched_to=stop.started_at if stop and not has_more else None,
    )


def _search_end(every: CallQuerySet, is_newer: bool) -> Cursor | None:
    """The row at which a search stops, if there are so many."""
    row = every.values_list("started_at", "pk")[MAX_CALLS_SEARCHED : MAX_CALLS_SEARCHED + 1].first()
    return Cursor(row[0], row[1], is_newer) if row else None
