"""Forms that notice what others changed meanwhile; and limits as people type them: a whole number
each, empty for none."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.forms.models import model_to_dict
from django.forms.utils import pretty_name
from django.utils.html import format_html

from keyportal.teams.limits import LABELS, MAX_LIMIT, Limits


class Conflict(Exception):
    """What a form shows was changed after it was opened; the text names what, to a person."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"Changed since you opened this page: {', '.join(names)}.")


def version_of(values: Mapping[str, object]) -> str:
    """A short digest of each value, in their order."""
    texts = (str(value).encode() for value in values.values())
    return "-".join(hashlib.sha256(text).hexdigest()[:8] for text in texts)


def require_version(version: str, values: Mapping[str, object]) -> None:
    """Raises `Conflict` where `version` is not of these values. Without a version all is well."""
    if not version or version == version_of(values):
        return
    shown, current = version.split("-"), version_of(values).split("-")
    if len(shown) != len(current):
        raise Conflict([*values])
    rows = zip(values, shown, current, strict=True)
    raise Conflict([name for name, before, now in rows if before != now])


class VersionedForm(forms.Form):
    """Changes a stored row, unless somebody has changed it since the form was opened.

    Its hidden field has the version of what it showed. `require_current` compares it with the row
    as it is under its lock.
    """

    version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(
        self, data: Any = None, *, row: Any, initial: Mapping[str, Any], conflict: str = ""
    ) -> None:
        """`conflict` is why the form is shown once more, with what is stored today."""
        super().__init__(data, initial={**initial, "version": version_of(self.current_values(row))})
        self.conflict = conflict

    @staticmethod
    def current_values(row: Any) -> dict[str, object]:
        """What the form shows of the row, by what people call it."""
        raise NotImplementedError

    def require_current(self, row: Any) -> None:
        """Raises `Conflict`."""
        require_version(self.cleaned_data["version"], self.current_values(row))

    @property
    def status(self) -> int:
        """Of the answer that shows it."""
        return 409 if self.conflict else 422 if self.is_bound else 200


class VersionedModelForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    """The same for Django's admin, whose transaction holds the lock until the row is saved."""

    version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Taken now, because a formset adds fields of its own.
        self._labels = {
            name: str(field.label or pretty_name(name)).lower()
            for name, field in self.fields.items()
            if not field.disabled
        }
        if self.instance.pk:
            self.initial["version"] = version_of(self._stored(self.instance))

    def _stored(self, row: models.Model) -> dict[str, object]:
        values = model_to_dict(row, [*self._labels])
        return {self._labels[name]: value for name, value in values.items()}

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        rows = type(self.instance)._base_manager.select_for_update(no_key=True)
        if row := rows.filter(pk=self.instance.pk).first():
            try:
                require_version(self.cleaned_data.get("version", ""), self._stored(row))
            except Conflict as conflict:
                again = format_html('{} <a href="">Open it again</a>.', str(conflict))
                raise ValidationError(again) from None
        return cleaned

    @property
    def changed_data(self) -> list[str]:
        """The version is no value of the row."""
        return [name for name in super().changed_data if name != "version"]


class LimitsForm(VersionedForm):
    """A field for each limit. What is above a ceiling is refused where the rule lives."""

    def __init__(self, data: Any = None, *, limits: Limits, conflict: str = "") -> None:
        super().__init__(data, row=limits, initial=limits._asdict(), conflict=conflict)
        for name, label in LABELS.items():
            self.fields[name] = forms.IntegerField(
                label=label, required=False, min_value=1, max_value=MAX_LIMIT
            )

    @staticmethod
    def current_values(row: Limits) -> dict[str, object]:
        return {LABELS[name].lower(): limit for name, limit in row._asdict().items()}

    @property
    def limits(self) -> Limits:
        return Limits(**{name: self.cleaned_data[name] for name in Limits._fields})

    def add_limit_errors(self, complaints: dict[str, str]) -> None:
        for name, complaint in complaints.items():
            self.add_error(name, complaint)
