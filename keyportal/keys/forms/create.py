"""What may be said of a new key. Its name is enough; all else starts as the policy suggests."""

from typing import Any

from django import forms

from keyportal.keys.forms.base import NameField, NonceForm
from keyportal.keys.forms.expiry import DATE, ExpiryForm
from keyportal.keys.forms.fields import ModelsField, NetworksField
from keyportal.keys.models import ApiKey, KeyTemplate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.keys.rules.policy import violations, widest_permissions
from keyportal.keys.rules.validators import normalize_text, require_no_key
from keyportal.teams.models import Team

# Which field a rule of the policy is told beside, by the column that the rule is about.
FIELD_BY_COLUMN = {
    "name": "name",
    "expires_at": "lifetime",
    "allowed_models": "models",
    "endpoints": "endpoints",
}
OPTIONAL_FIELDS = ("description", "endpoints", "models", "networks")


class CreateForm(NonceForm, ExpiryForm):
    name = NameField(placeholder="test-key", missing="Give the key a name.")
    template = forms.ChoiceField(label="Template", required=False)
    description = forms.CharField(
        max_length=500,
        required=False,
        validators=[require_no_key],
        widget=forms.Textarea(attrs={"rows": 2}),
    )
    endpoints = forms.ChoiceField(required=False)
    models = ModelsField(rows=1, help_text="Names or patterns such as public/*. Empty: as above.")
    networks = NetworksField(rows=1)

    def __init__(self, data: Any = None, *, team: Team) -> None:
        super().__init__(data, policy=team.policy)
        self.team = team
        self.templates = {
            str(template.pk): template for template in KeyTemplate.objects.for_team(team)
        }
        self._offer()

    def _offer(self) -> None:
        """Where there are templates, nothing chosen stands for what the template says."""
        templates = [(number, str(template)) for number, template in self.templates.items()]
        self._choices("template", [("", "None"), *templates])
        suggested = "As the template says" if templates else "As the policy allows"
        self._choices("endpoints", [("", suggested), *Endpoints.choices])
        if templates:
            lifetime: Any = self.fields["lifetime"]
            first, _, _ = dict(lifetime.choices)[lifetime.initial].partition(",")
            lifetime.choices = [("", f"{suggested}, else {first.lower()}"), *lifetime.choices]
            self.initial["lifetime"] = ""

    def _choices(self, name: str, choices: list[tuple[str, str]]) -> None:
        field: Any = self.fields[name]
        field.choices = choices

    def clean_description(self) -> str:
        return normalize_text(self.cleaned_data["description"])

    @property
    def is_expanded(self) -> bool:
        """Whether something is there to see in what is folded away at first."""
        return self.is_bound and any(
            self.data.get(name) or self[name].errors for name in OPTIONAL_FIELDS
        )

    @property
    def chosen_template(self) -> KeyTemplate | None:
        return self.templates.get(self.cleaned_data.get("template", ""))

    def clean(self) -> dict[str, Any]:
        """What is refused here is refused again where the key is made; this tells where."""
        cleaned, template = self.cleaned_data, self.chosen_template
        if cleaned.get("lifetime") == "":
            days = template.lifetime_days if template else None
            cleaned["lifetime"] = str(days or self.fields["lifetime"].initial)
        cleaned = super().clean()
        if not self.errors:
            for field, sentence in self._complaints():
                self.add_error(field, sentence)
        return cleaned

    def _complaints(self) -> list[tuple[str, str]]:
        """All before the first is added, which takes its field out of `cleaned_data`."""
        cleaned = self.cleaned_data
        key = ApiKey(name=cleaned["name"], expires_at=cleaned["expires_at"])
        key.permissions = self.permissions
        return [
            (self._told_beside(field), sentence)
            for column, field in FIELD_BY_COLUMN.items()
            for sentence in violations(self.team.policy, key, (column,))
        ]

    @property
    def permissions(self) -> Permissions:
        """What was typed; else what the template says; else as much as the policy allows."""
        cleaned, policy, template = self.cleaned_data, self.team.policy, self.chosen_template
        given = template.permissions_within(policy) if template else widest_permissions(policy)
        # A star alone is typed too, and means all that the policy allows.
        models = widest_permissions(policy) if self.data.get("models", "").strip() else given
        return Permissions(
            cleaned["models"] or models.models,
            Endpoints(cleaned["endpoints"] or given.endpoints),
            cleaned["networks"] or given.networks,
        )

    def _told_beside(self, field: str) -> str:
        """A template that the present policy forbids is at fault itself."""
        if self.chosen_template and field != "name" and not self.data.get(field):
            return "template"
        return "expiry_date" if field == "lifetime" and self.data.get(field) == DATE else field

    @property
    def issue_arguments(self) -> dict[str, Any]:
        """As `ApiKey.objects.issue` takes it."""
        names = ("name", "description", "expires_at", "nonce")
        return {name: self.cleaned_data[name] for name in names} | {"permissions": self.permissions}
