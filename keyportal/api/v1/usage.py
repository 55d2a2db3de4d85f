"""The team's usage, with the same numbers as the Usage page."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from keyportal.api.framework.operations import Operations, Request
from keyportal.api.framework.problems import FieldError, Invalid
from keyportal.api.scopes import Scope
from keyportal.api.v1.types import Line, Moment, PublicId, UserId
from keyportal.database.clock import database_now
from keyportal.teams.models import User
from keyportal.usage.forms import FIRST_YEAR, LAST_YEAR
from keyportal.usage.reports.periods import DEFAULT_RANGE, MAX_LENGTH, RANGES, Period, custom_period
from keyportal.usage.reports.report import Group, Report, report
from keyportal.usage.reports.report import Selection as Filter
from keyportal.usage.reports.totals import COUNTS, Totals

operations = Operations()
GroupBy = Literal["key", "model"]
NO_USER = -1  # No user has this id.


class UsageTotals(Struct):
    requests: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: Annotated[
        int, Meta(description="Prompt tokens that the model server read from its cache.")
    ]
    cache_write_tokens: Annotated[
        int, Meta(description="Prompt tokens that the model server wrote to its cache.")
    ]
    cache_write_1h_tokens: Annotated[
        int, Meta(description="Those of them that it keeps for an hour, not for five minutes.")
    ]
    reasoning_tokens: Annotated[int, Meta(description="Part of the completion tokens.")]
    audio_prompt_tokens: int
    audio_completion_tokens: int
    image_prompt_tokens: int
    image_completion_tokens: int
    images: Annotated[int, Meta(description="Images that were generated.")]
    estimated_requests: Annotated[int, Meta(description="Requests whose tokens were estimated.")]
    median_ms: float | None
    p95_ms: float | None

    @classmethod
    def from_totals(cls, totals: Totals) -> "UsageTotals":
        counts = {name: getattr(totals, name) for name in COUNTS}
        return cls(**counts, median_ms=totals.median, p95_ms=totals.p95)


class UsageStep(Struct):
    start: datetime
    totals: UsageTotals


class UsageGroup(Struct):
    value: Annotated[
        str | None,
        Meta(description="The key's id or the model's name; null: all other groups together."),
    ]
    name: str
    is_deleted: bool
    totals: UsageTotals


class UsageBody(Struct):
    start: datetime
    end: Annotated[datetime, Meta(description="Exclusive.")]
    step: Literal["minute", "hour", "day"]
    group_by: GroupBy
    totals: UsageTotals
    steps: list[UsageStep]
    groups: Annotated[list[UsageGroup], Meta(description="In descending order of use.")]


class UsageQuery(Struct, forbid_unknown_fields=True):
    range: Annotated[
        Literal["1h", "24h", "14d", "90d"] | UnsetType,
        Meta(description=f"A period that ends now. The default is {DEFAULT_RANGE}."),
    ] = UNSET
    start: Annotated[
        Moment | UnsetType, Meta(description="Together with `end`, in place of `range`.")
    ] = UNSET
    end: Moment | UnsetType = UNSET
    group_by: GroupBy = "key"
    key_id: PublicId | UnsetType = UNSET
    member: Annotated[
        Line | UnsetType, Meta(description="The current username of the keys' owner.")
    ] = UNSET
    member_id: UserId | UnsetType = UNSET
    model: Line | UnsetType = UNSET

    def period(self, now: datetime) -> Period:
        """Raises `Invalid`."""
        if self.start is UNSET and self.end is UNSET:
            name = DEFAULT_RANGE if self.range is UNSET else self.range
            return RANGES[name][1](now)
        if self.start is UNSET or self.end is UNSET or self.range is not UNSET:
            raise _invalid_period("Send `range`, or both `start` and `end`.")
        if not FIRST_YEAR < self.start.year <= self.end.year < LAST_YEAR:
            raise _invalid_period(f"Choose years between {FIRST_YEAR} and {LAST_YEAR}.")
        start, end = self.start.astimezone(UTC), self.end.astimezone(UTC)
        if not start < end <= start + MAX_LENGTH:
            raise _invalid_period(
                f"`end` must be after `start`, by at most {MAX_LENGTH.days} days."
            )
        return custom_period(start, end, now)

    @property
    def filter(self) -> Filter:
        """Raises `Invalid` if both `member` and `member_id` are given."""
        return Filter(self.key_id or "", self._member(), self.model or "")

    def _member(self) -> int:
        if self.member is UNSET:
            return self.member_id or 0
        if self.member_id is not UNSET:
            error = FieldError("Send either `member` or `member_id`.", parameter="member")
            raise Invalid(errors=[error])
        user_id = User.objects.filter(username=self.member).values_list("pk", flat=True).first()
        return user_id or NO_USER


def _invalid_period(detail: str) -> Invalid:
    return Invalid(errors=[FieldError(detail, parameter="start")])


@operations.get("usage", scope=Scope.USAGE_READ, query=UsageQuery, response=UsageBody)
def read_usage(request: Request[None, UsageQuery]) -> UsageBody:
    """Read the team's usage: in total, over time, and by key or model."""
    query = request.query
    period = query.period(database_now())
    return _usage_body(
        report(request.caller.team, period, query.filter, query.group_by), query.group_by
    )


def _usage_body(report: Report, group_by: GroupBy) -> UsageBody:
    period = report.period
    steps = zip(period.moments, report.steps, strict=True)
    return UsageBody(
        start=period.start,
        end=period.end,
        step=period.step.value,
        group_by=group_by,
        totals=UsageTotals.from_totals(report.used),
        steps=[UsageStep(start, UsageTotals.from_totals(totals)) for start, totals in steps],
        groups=[_usage_group(group) for group in report.groups],
    )


def _usage_group(group: Group) -> UsageGroup:
    return UsageGroup(
        group.value, group.name, group.is_deleted, UsageTotals.from_totals(group.used)
    )
