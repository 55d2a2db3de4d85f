"""The form for a template."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.keys.forms.expiry import MAX_DAYS
from keyportal.keys.forms.fields import ModelsField, NetworksField
from keyportal.keys.keystring import require_no_key
from keyportal.keys.models import KeyTemplate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.keys.rules.validators import require_printable
from keyportal.teams.forms import VersionedForm

# The field that shows a violation of the policy, by the column that the rule is about.
FIELD_BY_COLUMN = {
    "allowed_models": "models",
    "endpoints": "endpoints",
    "expires_at": "lifetime_days",
}


class TemplateForm(VersionedForm):
    name = forms.CharField(
        max_length=64,
        validators=[require_printable, require_no_key],
        widget=forms.TextInput(
            attrs={"placeholder": "CI job", "autocomplete": "off", "autofocus": True}
        ),
    )
    lifetime_days = forms.IntegerField(
        label="Lifetime in days",
        help_text="Empty: as the policy suggests.",
        required=False,
        min_value=1,
        max_value=MAX_DAYS,
    )
    endpoints = forms.ChoiceField(choices=Endpoints.choices, required=False)
    models = ModelsField(
        help_text="Names or patterns such as public/*. Empty: all that the policy allows."
    )
    networks = NetworksField()

    def __init__(self, data: Any = None, *, template: KeyTemplate, conflict: str = "") -> None:
        self.template = template
        super().__init__(data, row=template, initial=self._values(template), conflict=conflict)

    @staticmethod
    def _values(template: KeyTemplate) -> dict[str, Any]:
        models, endpoints, networks = template.permissions
        return {
            "name": template.name,
            "lifetime_days": template.lifetime_days,
            "endpoints": endpoints.value,
            "models": models,
            "networks": networks,
        }

    @staticmethod
    def current_values(row: KeyTemplate) -> dict[str, object]:
        values = TemplateForm._values(row)
        labels = {"lifetime_days": "lifetime in days"}
        return {labels.get(name, name): value for name, value in values.items()}

    def clean(self) -> dict[str, Any]:
        """Refuse a template whose keys would always break the present policy."""
        if not self.errors:
            team = self.template.team
            template = KeyTemplate(team=team)
            self.apply_to(template)
            for column, field in FIELD_BY_COLUMN.items():
                for sentence in template.violations(team.policy, (column,)):
                    self.add_error(field, sentence)
        return self.cleaned_data

    def apply_to(self, template: KeyTemplate) -> None:
        cleaned = self.cleaned_data
        template.name, template.lifetime_days = cleaned["name"], cleaned["lifetime_days"]
        endpoints = Endpoints(cleaned["endpoints"] or Endpoints.ALL)
        template.permissions = Permissions(cleaned["models"], endpoints, cleaned["networks"])

    def add_save_error(self, error: ValidationError) -> None:
        """Saving can only fail because of the name."""
        self.add_error("name", error.messages[0])
