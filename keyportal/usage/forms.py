"""The filters of the usage page and the list of calls."""

from datetime import date
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.database.clock import database_now
from keyportal.teams.dates import end_of_day
from keyportal.usage.reports.periods import (
    CUSTOM,
    DEFAULT_RANGE,
    MAX_LENGTH,
    RANGES,
    Period,
    custom_period,
)
from keyportal.usage.reports.report import Selection

FIRST_YEAR, LAST_YEAR = 2000, 2100


class CallFilter(forms.Form):
    """Which calls to list. An invalid filter is ignored."""

    key = forms.CharField(max_length=8, required=False)
    model = forms.CharField(max_length=200, required=False)
    request = forms.CharField(max_length=128, required=False)
    status = forms.ChoiceField(
        choices=[("", "All"), ("2", "Served"), ("4", "Refused, 4xx"), ("5", "Failed, 5xx")],
        required=False,
    )

    def value(self, name: str) -> str:
        self.is_valid()
        return str(self.cleaned_data.get(name) or "")

    @property
    def request_id(self) -> str:
        return self.value("request")

    @property
    def status_class(self) -> str:
        return self.value("status")

    @property
    def selection(self) -> Selection:
        return Selection(key=self.value("key"), model=self.value("model"))


class EndField(forms.DateTimeField):
    """A date without a time means the end of that day."""

    def to_python(self, value: Any) -> Any:
        try:
            return end_of_day(date.fromisoformat(value or ""))
        except ValueError:
            return super().to_python(value)


class UsageFilter(forms.Form):
    """Which usage to show. An invalid filter shows the last 14 days and an error message."""

    range = forms.ChoiceField(
        choices=[*((name, label) for name, (label, _) in RANGES.items()), (CUSTOM, "Custom")],
        required=False,
    )
    start = forms.DateTimeField(required=False)
    end = EndField(required=False)
    by = forms.ChoiceField(choices=[("key", "Key"), ("model", "Model")], required=False)
    key = forms.CharField(max_length=8, required=False)
    member = forms.IntegerField(min_value=1, max_value=2**63 - 1, required=False)
    model = forms.CharField(max_length=200, required=False)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        start, end = cleaned.get("start"), cleaned.get("end")
        if cleaned.get("range") != CUSTOM or not (start and end):
            return cleaned
        if not FIRST_YEAR <= start.year <= end.year <= LAST_YEAR or start >= end:
            raise ValidationError("The end must be after the start.")
        if end - start > MAX_LENGTH:
            raise ValidationError(f"Choose a period of at most {MAX_LENGTH.days} days.")
        return cleaned

    def value(self, name: str) -> str:
        self.is_valid()
        return str(self.cleaned_data.get(name) or "")

    @property
    def chosen_range(self) -> str:
        return self.value("range") or DEFAULT_RANGE

    @property
    def chosen_grouping(self) -> str:
        return self.value("by") or "key"

    @property
    def selection(self) -> Selection:
        return Selection(self.value("key"), int(self.value("member") or 0), self.value("model"))

    def period(self) -> Period:
        now = database_now()  # As for the minutes of usage.
        name = self.chosen_range
        if name != CUSTOM:
            return RANGES[name][1](now)
        start, end = self.cleaned_data.get("start"), self.cleaned_data.get("end")
        if start and end and not self.errors:
            return custom_period(start, end, now)
        return RANGES[DEFAULT_RANGE][1](now)
