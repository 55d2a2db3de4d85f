"""Forms of several rules, and limits as people type them: a whole number each, empty for none."""

from typing import Any, TypeVar

import msgspec
from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import EMPTY_VALUES
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from keyportal.teams.limits import LABELS, LARGEST, UNLIMITED, Limits, validate
from keyportal.teams.values import Value, merged

T = TypeVar("T", bound=tuple[Any, ...])


class ShownField(forms.Field):
    """What stood in the form when it was opened, which the browser sends along.

    It says what is meant, and allows nothing: what can't be read is as if it was not sent.
    """

    widget = forms.HiddenInput

    def __init__(self, value: Value) -> None:
        super().__init__(required=False, initial=value)
        self._read = type(value).read

    def prepare_value(self, value: Any) -> Any:
        is_sent = value is None or isinstance(value, str)
        return value if is_sent else msgspec.json.encode(value.stored()).decode()

    def to_python(self, value: Any) -> Any:
        try:
            return self._read(msgspec.json.decode(value or "", type=dict[str, Any]))
        except (TypeError, ValueError, OverflowError, RecursionError):
            return None


class RulesForm(forms.Form):
    """Of several rules of one value, which are saved one by one: see `merged`."""

    def __init__(self, data: Any = None, *, value: Value, initial: dict[str, Any]) -> None:
        super().__init__(data, initial=initial)
        self.fields["shown"] = ShownField(value)

    def applied(self, typed: T, now: T) -> T:
        """All that was typed, where the form was sent without what it showed."""
        shown: T | None = self.cleaned_data["shown"]
        return merged(now, typed, now if shown is None else shown)


class LimitsForm(RulesForm):
    """A field for each limit. What is above a ceiling is refused where the rule lives."""

    def __init__(self, data: Any = None, *, limits: Limits) -> None:
        super().__init__(data, value=limits, initial=limits._asdict())
        for name, label in LABELS.items():
            self.fields[name] = forms.IntegerField(
                label=label, required=False, min_value=1, max_value=LARGEST
            )

    def refuse(self, complaints: dict[str, str]) -> None:
        for name, complaint in complaints.items():
            self.add_error(name, complaint)

    def applied_to(self, now: Limits) -> Limits:
        typed = Limits(**{name: self.cleaned_data[name] for name in Limits._fields})
        return self.applied(typed, now)


class LimitsWidget(forms.MultiWidget):
    """Labelled numbers; for Django's admin, which draws a field without knowing its parts."""

    template_name = "teams/limits_widget.html"
    use_fieldset = True

    def __init__(self, attrs: Any = None) -> None:
        widgets: dict[str, forms.Widget | type[forms.Widget]] = {
            name: forms.NumberInput(attrs={"min": 1, "max": LARGEST}) for name in LABELS
        }
        super().__init__(widgets, attrs)

    def decompress(self, value: Limits | None) -> list[int | None]:
        return [*(value or UNLIMITED)]

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        context = super().get_context(name, value, attrs)
        parts = context["widget"]["subwidgets"]
        return context | {"parts": zip(LABELS.values(), parts, strict=True)}

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        # Django's renderer of forms looks for templates in Django only.
        return render_to_string(self.template_name, self.get_context(name, value, attrs))


def merged_limits(form: forms.BaseForm, name: str, now: Limits) -> Limits:
    """`now`, and of this field only the limits that differ from what the page showed.

    For forms of Django's admin, whose hidden fields tell it: see `show_hidden_initial`. What can't
    be read is as if it was not sent.
    """
    field, hidden_name = form.fields[name], form[name].html_initial_name
    sent = field.hidden_widget().value_from_datadict(form.data, form.files, hidden_name)
    typed: Limits = form.cleaned_data[name]
    try:
        shown: Limits = field.clean(sent)
    except ValidationError:
        return typed
    return merged(now, typed, shown)


class HiddenLimitsWidget(LimitsWidget):
    """What the form showed; see `show_hidden_initial`."""

    template_name = "teams/hidden_limits_widget.html"


class LimitsFormField(forms.MultiValueField):
    """`Limits` as one field of a form."""

    widget = LimitsWidget
    hidden_widget = HiddenLimitsWidget
    # A form that was sent without this field leaves the limits as they are.
    empty_values = [*EMPTY_VALUES, UNLIMITED]

    def __init__(self, **kwargs: Any) -> None:
        kwargs |= {"required": False, "require_all_fields": False}
        fields = [
            forms.IntegerField(
                required=False, error_messages={"invalid": f"{label}: enter a whole number."}
            )
            for label in LABELS.values()
        ]
        super().__init__(fields, **kwargs)

    def compress(self, data_list: list[int | None]) -> Limits:
        limits = Limits(*data_list) if data_list else UNLIMITED
        validate(limits)
        return limits

    def has_changed(self, initial: Any, data: Any) -> bool:
        """`initial` is a list where the form says what it showed."""
        try:
            former = initial if isinstance(initial, Limits) else self.clean(initial)
            return bool(self.clean(data) != former)
        except ValidationError:
            return True
