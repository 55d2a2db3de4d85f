"""Ends that people and programs enter. A date without a time means the end of that day in UTC."""

from datetime import UTC, date, datetime, time


def end_of_day(day: date) -> datetime:
    """The last second of a day in UTC."""
    return datetime.combine(day, time(23, 59, 59), UTC)


def parse_end(text: str) -> datetime:
    """The end in an ISO 8601 date or time, in UTC; a time without an offset is in UTC.

    Raises `ValueError`.
    """
    try:
        return end_of_day(date.fromisoformat(text))
    except ValueError:
        end = datetime.fromisoformat(text)
    try:
        return (end if end.tzinfo else end.replace(tzinfo=UTC)).astimezone(UTC)
    except OverflowError:
        raise ValueError("This time is outside the calendar.") from None
