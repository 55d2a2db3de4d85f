"""The model field for `Limits`, and its form field and widget."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import EMPTY_VALUES
from django.db import models
from django.template.loader import render_to_string
from django.utils.safestring import SafeString

from keyportal.teams.limits import LABELS, MAX_LIMIT, UNLIMITED, Limits, validate
from keyportal.teams.values import ValueField


class LimitsWidget(forms.MultiWidget):
    """A labelled number input for each limit. For Django's admin, which renders a field as one."""

    template_name = "teams/limits_widget.html"
    use_fieldset = True

    def __init__(self, attrs: Any = None) -> None:
        widgets: dict[str, forms.Widget | type[forms.Widget]] = {
            name: forms.NumberInput(attrs={"min": 1, "max": MAX_LIMIT}) for name in LABELS
        }
        super().__init__(widgets, attrs)

    def decompress(self, value: Limits | None) -> list[int | None]:
        return [*(value or UNLIMITED)]

    def get_context(self, name: str, value: Any, attrs: Any) -> dict[str, Any]:
        context = super().get_context(name, value, attrs)
        widgets = context["widget"]["subwidgets"]
        return context | {"parts": zip(LABELS.values(), widgets, strict=True)}

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        # The default form renderer finds only the templates that come with Django.
        return render_to_string(self.template_name, self.get_context(name, value, attrs))


class LimitsFormField(forms.MultiValueField):
    """A form field whose value is `Limits`."""

    widget = LimitsWidget
    # A POST without this field leaves the limits unchanged.
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
        try:
            return bool(self.clean(data) != initial)
        except ValidationError:
            return True


class LimitsField(ValueField):
    """A model field whose value is `Limits`."""

    value_class = Limits

    def formfield(self, **kwargs: Any) -> Any:
        """A number input for each limit, instead of a text area with JSON."""
        kwargs |= {"form_class": LimitsFormField, "show_hidden_initial": False}
        return models.Field.formfield(self, **kwargs)

    def validate(self, value: Any, model_instance: models.Model | None) -> None:
        if value is not None:
            validate(value)
