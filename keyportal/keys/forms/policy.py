"""The form for a team's policy. An empty field means no rule."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.keys.forms.expiry import MAX_DAYS
from keyportal.keys.forms.fields import ModelsField
from keyportal.keys.keystring import require_no_key
from keyportal.keys.rules.permissions import Endpoints
from keyportal.keys.rules.validators import require_printable
from keyportal.teams.forms import VersionedForm
from keyportal.teams.models import Role
from keyportal.teams.policy import LABELS, NO_POLICY, Policy

MAX_KEYS = 1_000_000
HELP_TEXTS = {
    "max_lifetime_days": "From the day when a key is created or changed. Empty: no limit.",
    "rotation_days": "The Health page lists keys with older secrets. Empty: no advice.",
    "second_factor_days": "Afterwards the pages of the team need one; 0: at once. Keys work on. "
    "Empty: not required.",
    "models": "Names or patterns such as public/*, separated by spaces or lines. "
    "Empty: all models of the team.",
    "min_creator_role": "Others can see keys, and change their own.",
    "max_keys_per_member": "Empty: no limit per member.",
    "name_pattern": "Names must match it; * matches any text. Empty: any name.",
}
CREATOR_ROLES = (Role.MEMBER, Role.ADMIN, Role.OWNER)


def _days_field() -> forms.IntegerField:
    return forms.IntegerField(required=False, min_value=1, max_value=MAX_DAYS)


class PolicyForm(VersionedForm):
    max_lifetime_days = _days_field()
    must_expire = forms.BooleanField(required=False)
    rotation_days = _days_field()
    models = ModelsField(rows=3)
    endpoints = forms.MultipleChoiceField(
        required=False,
        choices=[choice for choice in Endpoints.choices if choice[0] != Endpoints.ALL],
        widget=forms.CheckboxSelectMultiple,
    )
    min_creator_role = forms.ChoiceField(
        required=False, choices=[(role.value, f"{role.label} and above") for role in CREATOR_ROLES]
    )
    service_accounts_only = forms.BooleanField(required=False)
    max_keys_per_member = forms.IntegerField(required=False, min_value=1, max_value=MAX_KEYS)
    name_pattern = forms.CharField(
        required=False,
        max_length=64,
        validators=[require_printable, require_no_key],
        widget=forms.TextInput(
            attrs={"placeholder": "ci-*", "spellcheck": "false", "autocomplete": "off"}
        ),
    )

    second_factor_days = forms.IntegerField(required=False, min_value=0, max_value=365)

    def __init__(self, data: Any = None, *, policy: Policy, conflict: str = "") -> None:
        super().__init__(data, row=policy, initial=policy._asdict(), conflict=conflict)
        for name, label in LABELS.items():
            self.fields[name].label = label
            self.fields[name].help_text = HELP_TEXTS.get(name, "")

    def clean_name_pattern(self) -> str:
        """Stars alone allow every name, so they mean no rule. Many stars are slow to match."""
        pattern = str(self.cleaned_data["name_pattern"])
        if pattern.count("*") > 3:
            raise ValidationError("At most three stars.")
        return pattern if pattern.strip("*") else ""

    def clean(self) -> dict[str, Any]:
        """Data without `min_creator_role` means the default."""
        cleaned = self.cleaned_data
        cleaned["min_creator_role"] = cleaned.get("min_creator_role") or NO_POLICY.min_creator_role
        return cleaned

    @property
    def policy(self) -> Policy:
        """Endpoints are in a fixed order, so that equal sets give equal policies."""
        values = {name: self.cleaned_data[name] for name in Policy._fields}
        endpoints = tuple(value for value in Endpoints.values if value in values["endpoints"])
        return Policy(**values | {"endpoints": endpoints})

    @staticmethod
    def current_values(row: Policy) -> dict[str, object]:
        return {LABELS[name].lower(): value for name, value in row._asdict().items()}
