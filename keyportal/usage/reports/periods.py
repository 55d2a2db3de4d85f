"""Stretches of time that usage is shown for, in steps of a minute, an hour or a UTC day."""

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
    """How finely usage is shown. Days are kept for good, the others are not."""

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
        """`moment` is in UTC, to which hours and days are aligned."""
        minute = moment.replace(second=0, microsecond=0)
        if self is Step.MINUTE:
            return minute
        hour = minute.replace(minute=0)
        return hour if self is Step.HOUR else hour.replace(hour=0)


@dataclass(frozen=True)
class Period:
    """From `start` up to `end`, which is not in it; both on the border of a step."""

    start: datetime
    end: datetime
    step: Step

    @cached_property
    def moments(self) -> list[datetime]:
        """Where each step begins."""
        count = (self.end - self.start) // self.step.length
        return [self.start + number * self.step.length for number in range(count)]


def _last_steps(count: int, step: Step) -> Callable[[datetime], Period]:
    """The present step, which is not over, and those before it."""

    def ending(now: datetime) -> Period:
        end = step.floor(now) + step.length
        return Period(end - count * step.length, end, step)

    return ending


# What can be chosen: name, label, and the period as of now.
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
    """As fine as the length allows, and as what far back is still kept."""
    length, age = end - start, now - start
    if length <= timedelta(hours=2) and age <= MINUTES_RETENTION:
        step = Step.MINUTE
    elif length <= timedelta(days=3) and age <= HOURS_RETENTION:
        step = Step.HOUR
    else:
        step = Step.DAY
    last = step.floor(end)
    return Period(step.floor(start), last if last == end else last + step.length, step)
