"""Forms that detect a concurrent change of their row, the form of the limits, and presets."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from django import forms
from django.core.exceptions import ValidationError
from django.db import models
from django.forms.models import model_to_dict
from django.forms.utils import pretty_name
from django.utils.html import format_html

from keyportal.teams.limits import LABELS, MAX_LIMIT, Limits


class Conflict(Exception):
    """The row was changed after the form was opened; the message names the changed fields."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"Changed since you opened this page: {', '.join(names)}.")


def version_of(values: Mapping[str, object]) -> str:
    """The first 8 hex digits of the SHA-256 of each value, in order, joined by hyphens."""
    texts = (str(value).encode() for value in values.values())
    return "-".join(hashlib.sha256(text).hexdigest()[:8] for text in texts)


def require_version(version: str, values: Mapping[str, object]) -> None:
    """Raises `Conflict` if `version` is not that of `values`. An empty version is not checked."""
    if not version or version == version_of(values):
        return
    submitted, current = version.split("-"), version_of(values).split("-")
    if len(submitted) != len(current):
        raise Conflict([*values])
    digests = zip(values, submitted, current, strict=True)
    raise Conflict([name for name, before, now in digests if before != now])


class VersionedForm(forms.Form):
    """Edits a row, and refuses when the row was changed after the form was opened.

    A hidden field holds the version of the values that the form displayed. `require_current`
    compares it with the locked row.
    """

    version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(
        self, data: Any = None, *, row: Any, initial: Mapping[str, Any], conflict: str = ""
    ) -> None:
        """`conflict` is the error message when the form is shown again with the current values."""
        super().__init__(data, initial={**initial, "version": version_of(self.current_values(row))})
        self.conflict = conflict

    @staticmethod
    def current_values(row: Any) -> dict[str, object]:
        """The values that the form displays, by their labels."""
        raise NotImplementedError

    def require_current(self, row: Any) -> None:
        """Raises `Conflict` if `row`, which the caller has locked, has changed."""
        require_version(self.cleaned_data["version"], self.current_values(row))

    @property
    def status(self) -> int:
        """The HTTP status of the response with this form."""
        return 409 if self.conflict else 422 if self.is_bound else 200


class VersionedModelForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    """The same for Django's admin, whose transaction keeps the row locked until it is saved."""

    version = forms.CharField(required=False, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Collected now, because a formset adds its own fields later.
        self._labels = {
            name: str(field.label or pretty_name(name)).lower()
            for name, field in self.fields.items()
            if not field.disabled
        }
        if self.instance.pk:
            self.initial["version"] = version_of(self._current_values(self.instance))

    def _current_values(self, row: models.Model) -> dict[str, object]:
        values = model_to_dict(row, [*self._labels])
        return {self._labels[name]: value for name, value in values.items()}

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        rows = type(self.instance)._base_manager.select_for_update(no_key=True)
        if row := rows.filter(pk=self.instance.pk).first():
            try:
                require_version(self.cleaned_data.get("version", ""), self._current_values(row))
            except Conflict as conflict:
                message = format_html('{} <a href="">Reload the page</a>.', str(conflict))
                raise ValidationError(message) from None
        return cleaned

    @property
    def changed_data(self) -> list[str]:
        """Without the version, which is no field of the row."""
        return [name for name in super().changed_data if name != "version"]


def limit_fields() -> dict[str, forms.Field]:
    """A field for each limit, by its name."""
    return {
        name: forms.IntegerField(label=label, required=False, min_value=1, max_value=MAX_LIMIT)
        for name, label in LABELS.items()
    }


class LimitsForm(VersionedForm):
    """An optional whole number for each limit; empty means no limit.

    It doesn't check ceilings: `keys.limits` does.
    """

    def __init__(self, data: Any = None, *, limits: Limits, conflict: str = "") -> None:
        super().__init__(data, row=limits, initial=limits._asdict(), conflict=conflict)
        self.fields |= limit_fields()

    @staticmethod
    def current_values(row: Limits) -> dict[str, object]:
        return {LABELS[name].lower(): limit for name, limit in row._asdict().items()}

    @property
    def limits(self) -> Limits:
        return Limits(**{name: self.cleaned_data[name] for name in Limits._fields})

    def add_limit_errors(self, messages: dict[str, str]) -> None:
        """Add error messages, by the names of the limits."""
        for name, message in messages.items():
            self.add_error(name, message)


class Preset(Protocol):
    """What is usual for a kind of server or provider. It only fills in the form of a new one."""

    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    @property
    def placeholder(self) -> str:
        """The part of the address that a person must replace."""


P = TypeVar("P", bound=Preset)


def preset_named(name: str, presets: Iterable[P]) -> P | None:
    return next((preset for preset in presets if preset.name == name), None)


def placeholder_in(address: str, presets: Iterable[Preset]) -> str:
    """What must still be replaced in the address of a preset; empty if nothing."""
    return next((preset.placeholder for preset in presets if preset.address == address), "")
