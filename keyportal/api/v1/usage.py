"""What was used, as the Usage page has it."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from django.utils import timezone
from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.problems import FieldError, Invalid
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import Line, Moment, PublicId, UserId
from keyportal.teams.models import User
from keyportal.usage.forms import FIRST_YEAR, LAST_YEAR
from keyportal.usage.reports.periods import DEFAULT_RANGE, MAX_LENGTH, RANGES, Period, custom_period
from keyportal.usage.reports.report import Part, Report, report
from keyportal.usage.reports.report import Selection as Filter
from keyportal.usage.reports.totals import COUNTS, Totals

operations = Operations()
By = Literal["key", "model"]
NOBODY = -1  # The id of no user.


class Used(Struct):
    requests: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    estimated: Annotated[int, Meta(description="Requests whose tokens are a guess.")]
    median_ms: float | None
    p95_ms: float | None

    @classmethod
    def of(cls, figures: Totals) -> "Used":
        counts = {name: getattr(figures, name) for name in COUNTS}
        return cls(**counts, median_ms=figures.median, p95_ms=figures.p95)


class StepBody(Struct):
    start: datetime
    used: Used


class PartBody(Struct):
    value: Annotated[
        str | None, Meta(description="The key's id or the model's name; null: the rest together.")
    ]
    name: str
    is_deleted: bool
    used: Used


class UsageBody(Struct):
    start: datetime
    end: Annotated[datetime, Meta(description="It is not in the period itself.")]
    step: Literal["minute", "hour", "day"]
    by: By
    used: Used
    steps: list[StepBody]
    parts: Annotated[list[PartBody], Meta(description="The busiest first.")]


class UsageQuery(Struct, forbid_unknown_fields=True):
    range: Annotated[
        Literal["1h", "24h", "14d", "90d"] | UnsetType,
        Meta(description=f"Up to now; {DEFAULT_RANGE} without `start` and `end`."),
    ] = UNSET
    start: Annotated[Moment | UnsetType, Meta(description="With `end`, instead of `range`.")] = (
        UNSET
    )
    end: Moment | UnsetType = UNSET
    by: By = "key"
    key: PublicId | UnsetType = UNSET
    member: Annotated[Line | UnsetType, Meta(description="A user's name today.")] = UNSET
    member_id: UserId | UnsetType = UNSET
    model: Line | UnsetType = UNSET

    def period(self, now: datetime) -> Period:
        """Raises `Invalid` for one that nobody can be shown."""
        if self.start is UNSET and self.end is UNSET:
            name = DEFAULT_RANGE if self.range is UNSET else self.range
            return RANGES[name][1](now)
        if self.start is UNSET or self.end is UNSET or self.range is not UNSET:
            raise _unfit("Give `range`, or both `start` and `end`.")
        if not FIRST_YEAR < self.start.year <= self.end.year < LAST_YEAR:
            raise _unfit(f"Choose years between {FIRST_YEAR} and {LAST_YEAR}.")
        start, end = self.start.astimezone(UTC), self.end.astimezone(UTC)
        if not start < end <= start + MAX_LENGTH:
            raise _unfit(f"`end` comes after `start`, and {MAX_LENGTH.days} days later at most.")
        return custom_period(start, end, now)

    @property
    def filter(self) -> Filter:
        """Raises `Invalid` where a member is given twice, or the name is no user's."""
        return Filter(self.key or "", self._member(), self.model or "")

    def _member(self) -> int:
        if self.member is UNSET:
            return self.member_id or 0
        if self.member_id is not UNSET:
            raise Invalid(errors=[FieldError("Give `member` or `member_id`.", parameter="member")])
        found = User.objects.filter(username=self.member).values_list("pk", flat=True).first()
        return found or NOBODY


def _unfit(told: str) -> Invalid:
    return Invalid(errors=[FieldError(told, parameter="start")])


@operations.get("usage", scope=Scope.USAGE_READ, query=UsageQuery, answer=UsageBody)
def read_usage(asked: Request[None, UsageQuery]) -> UsageBody:
    """Tell what the team used, in all, step by step, and by key or model."""
    query = asked.query
    period = query.period(timezone.now())
    return _told(report(asked.caller.team, period, query.filter, query.by), query.by)


def _told(found: Report, by: By) -> UsageBody:
    period = found.period
    moments = zip(period.moments, found.steps, strict=True)
    return UsageBody(
        start=period.start,
        end=period.end,
        step=period.step.value,
        by=by,
        used=Used.of(found.used),
        steps=[StepBody(start, Used.of(used)) for start, used in moments],
        parts=[_part(part) for part in found.parts],
    )


def _part(part: Part) -> PartBody:
    return PartBody(part.value, part.name, part.is_deleted, Used.of(part.used))
