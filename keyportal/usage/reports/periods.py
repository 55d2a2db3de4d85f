"""Periods of a usage report, in steps of a minute, an hour or a UTC day."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from functools import cached_property

from keyportal.usage.models import Usage, UsageDay, UsageHour, UsageMinute

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MINUTES_RETENTION, HOURS_RETENTION = timedelta(hours=48), timedelta(days=90)
MAX_LENGTH = timedelta(days=400)


class Step(Enum):
    """The resolution of a report. Only sums by day are kept forever."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def length(self) -> timedelta:
        return {"minute": MINUTE, "hour": HOUR, "day": DAY}[self.value]

    @property
    def table(self) -> type[Usage]:
        return {"minute": UsageMinute, "hour": UsageHour, "day": UsageDay}[self.value]

    def floor(self, moment: datetime) -> datetime:
        """The start of the step that contains `moment`, which must be in UTC."""
        minute = moment.replace(second=0, microsecond=0)
        if self is Step.MINUTE:
            return minute
        hour = minute.replace(minute=0)
        return hour if self is Step.HOUR else hour.replace(hour=0)


@dataclass(frozen=True)
class Period:
    """From `start` to `end`, without `end`; both are the start of a step."""

    start: datetime
    end: datetime
    step: Step

    @cached_property
    def moments(self) -> list[datetime]:
        """The start of each step."""
        count = (self.end - self.start) // self.step.length
        return [self.start + index * self.step.length for index in range(count)]


def _last_steps(count: int, step: Step) -> Callable[[datetime], Period]:
    """A function of the current time that returns the current step and those before it."""

    def period_at(now: datetime) -> Period:
        end = step.floor(now) + step.length
        return Period(end - count * step.length, end, step)

    return period_at


# The choices of the filter: value, label, and the period as a function of the current time.
RANGES = {
    "1h": ("Last hour, by the minute", _last_steps(60, Step.MINUTE)),
    "24h": ("Last 24 hours", _last_steps(24, Step.HOUR)),
    "14d": ("Last 14 days", _last_steps(14, Step.DAY)),
    "90d": ("Last 90 days", _last_steps(90, Step.DAY)),
}
LAST_WEEK = _last_steps(8, Step.DAY)
DEFAULT_RANGE = "14d"
CUSTOM = "custom"


def custom_period(start: datetime, end: datetime, now: datetime) -> Period:
    """In the smallest steps that suit the length and are still stored for that time."""
    length, age = end - start, now - start
    if length <= timedelta(hours=2) and age <= MINUTES_RETENTION:
        step = Step.MINUTE
    elif length <= timedelta(days=3) and age <= HOURS_RETENTION:
        step = Step.HOUR
    else:
        step = Step.DAY
    last = step.floor(end)
    return Period(step.floor(start), last if last == end else last + step.length, step)
