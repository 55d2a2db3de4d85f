"""The expiry of a key, as people choose it: after some days, at the end of a day, or never.

`now` is by the database's clock, by which the gateway judges the expiry.
A form with an expiry inherits `ExpiryForm`; `templates/keys/_expiry_fields.html` shows its two
fields. The form does not offer what the team's policy forbids; `rules/policy.py` refuses it.
"""

from datetime import date, datetime, timedelta
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.teams.dates import end_of_day
from keyportal.teams.policy import Policy

OFFERED_DAYS = (7, 30, 60, 90, 365)
MAX_DAYS = 3650
DATE, NEVER = "date", "never"


class ExpiryForm(forms.Form):
    """Sets `cleaned_data["expires_at"]`: a time in UTC, or None for never."""

    lifetime = forms.ChoiceField(label="Expires", required=False)
    expiry_date = forms.DateField(
        label="Last day, UTC",
        required=False,
        widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
    )

    def __init__(self, *args: Any, policy: Policy, now: datetime, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.now, today = now, now.date()
        offered = expiry_choices(policy, today)
        lifetime = self.fields["lifetime"]
        lifetime.choices = offered  # type: ignore[attr-defined]  # it is a ChoiceField
        lifetime.initial = _default_choice(offered)
        last = today + timedelta(days=policy.max_lifetime_days or MAX_DAYS)
        self.fields["expiry_date"].widget.attrs |= {"min": str(today), "max": str(last)}

    def clean(self) -> dict[str, Any]:
        """Data without a lifetime means the initial choice."""
        cleaned = super().clean() or self.cleaned_data
        if "lifetime" in cleaned and "expiry_date" in cleaned:
            chosen = cleaned["lifetime"] or self["lifetime"].initial
            cleaned["expires_at"] = self._expires_at(chosen, cleaned["expiry_date"])
        return cleaned

    def _expires_at(self, chosen: str, day: date | None) -> datetime | None:
        if chosen == NEVER:
            return None
        if chosen != DATE:
            return self.now + timedelta(days=int(chosen))
        if error := _date_error(day, self.now.date()):
            self.add_error("expiry_date", error)
        return end_of_day(day) if day else None


def expiry_choices(policy: Policy, today: date) -> list[tuple[str, str]]:
    """Values and labels of the choices that the policy allows."""
    max_days = policy.max_lifetime_days
    days = {count for count in OFFERED_DAYS if max_days is None or count <= max_days}
    if max_days is not None:
        days.add(min(max_days, MAX_DAYS))
    offered = [(str(count), expiry_label(count, today)) for count in sorted(days)]
    offered.append((DATE, "On a date"))
    return offered if policy.requires_expiry else [*offered, (NEVER, "Never")]


def expiry_label(days: int, today: date) -> str:
    """Such as `In 30 days, on 2026-12-24`; the day in UTC."""
    day = today + timedelta(days=days)
    span = "a year" if days == 365 else f"{days} day{'s' * (days > 1)}"
    return f"In {span}, on {day}"


def _default_choice(offered: list[tuple[str, str]]) -> str:
    """Never, if the policy allows it; else 90 days, or the next shorter choice."""
    values = [value for value, _ in offered]
    if NEVER in values:
        return NEVER
    return str(max(int(value) for value in values[:-1] if int(value) <= 90 or value == values[0]))


def _date_error(day: date | None, today: date) -> ValidationError | None:
    if day is None:
        return ValidationError("Choose the last day.")
    if day < today:
        return ValidationError("This day is in the past.")
    if day > today + timedelta(days=MAX_DAYS):
        return ValidationError(f"At most {MAX_DAYS} days from now.")
    return None
