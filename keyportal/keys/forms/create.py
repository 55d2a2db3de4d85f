"""The form for a new key. Only the name is required."""

from typing import Any

from django import forms

from keyportal.database.clock import database_now
from keyportal.keys.forms.base import DetailsForm, NameField, NonceForm
from keyportal.keys.forms.expiry import DATE, ExpiryForm
from keyportal.keys.forms.fields import ModelsField, NetworksField
from keyportal.keys.models import DETAILS, KeyTemplate
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.keys.rules.policy import PlannedKey, violations, widest_permissions
from keyportal.teams.models import Membership, Role, Team, User

# The field that shows a violation of the policy, by the column that the rule is about.
FIELD_BY_COLUMN = {
    "name": "name",
    "expires_at": "lifetime",
    "allowed_models": "models",
    "endpoints": "endpoints",
}
OPTIONAL_FIELDS = (*DETAILS, "endpoints", "models", "networks")


class CreateForm(NonceForm, ExpiryForm, DetailsForm):
    name = NameField(placeholder="test-key", required_message="Give the key a name.")
    owner = forms.ModelChoiceField(
        queryset=User.objects.none(),
        required=False,
        to_field_name="username",
        empty_label="You",
        help_text="A service account keeps the key when you leave.",
    )
    template = forms.ChoiceField(label="Template", required=False)
    endpoints = forms.ChoiceField(required=False)
    models = ModelsField(rows=1, help_text="Names or patterns such as public/*. Empty: as above.")
    networks = NetworksField(rows=1)

    def __init__(self, data: Any = None, *, team: Team, creator: Membership) -> None:
        super().__init__(data, policy=team.policy, now=database_now())
        self.team, self.creator = team, creator
        self._set_owners()
        self.templates = {
            str(template.pk): template for template in KeyTemplate.objects.for_team(team)
        }
        self._set_choices()

    def _set_owners(self) -> None:
        """Admins may choose a service account, where there is one."""
        if not self.creator.is_at_least(Role.ADMIN):
            return
        owner: Any = self.fields["owner"]
        owner.queryset = User.objects.filter(service_team=self.team).order_by("username")
        if self.team.policy.service_accounts_only:
            owner.empty_label, owner.required = None, True

    @property
    def has_owners(self) -> bool:
        owner: Any = self.fields["owner"]
        return bool(owner.queryset.exists())

    def _set_choices(self) -> None:
        """If the team has templates, an empty choice means the value of the template."""
        templates = [(pk, str(template)) for pk, template in self.templates.items()]
        self._set_field_choices("template", [("", "None"), *templates])
        default = "As the template says" if templates else "As the policy allows"
        self._set_field_choices("endpoints", [("", default), *Endpoints.choices])
        if templates:
            lifetime: Any = self.fields["lifetime"]
            initial, _, _ = dict(lifetime.choices)[lifetime.initial].partition(",")
            lifetime.choices = [("", f"{default}, else {initial.lower()}"), *lifetime.choices]
            self.initial["lifetime"] = ""

    def _set_field_choices(self, name: str, choices: list[tuple[str, str]]) -> None:
        field: Any = self.fields[name]
        field.choices = choices

    @property
    def optional_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in OPTIONAL_FIELDS]

    @property
    def is_expanded(self) -> bool:
        """Whether to show the optional fields at once: one of them has a value or an error."""
        return self.is_bound and any(field.data or field.errors for field in self.optional_fields)

    @property
    def chosen_template(self) -> KeyTemplate | None:
        return self.templates.get(self.cleaned_data.get("template", ""))

    def clean(self) -> dict[str, Any]:
        """`ApiKey.objects.issue` checks the policy again; here an error is shown at its field."""
        cleaned, template = self.cleaned_data, self.chosen_template
        if cleaned.get("lifetime") == "":
            days = template.lifetime_days if template else None
            cleaned["lifetime"] = str(days or self.fields["lifetime"].initial)
        cleaned = super().clean()
        if not self.errors:
            for field, sentence in self._policy_errors():
                self.add_error(field, sentence)
        return cleaned

    def _policy_errors(self) -> list[tuple[str, str]]:
        """Field and sentence of all errors; `add_error` removes its field from `cleaned_data`."""
        cleaned = self.cleaned_data
        key = PlannedKey(self.now, cleaned["name"], cleaned["expires_at"], self.permissions)
        return [
            (self._error_field(field), sentence)
            for column, field in FIELD_BY_COLUMN.items()
            for sentence in violations(self.team.policy, key, (column,))
        ]

    @property
    def permissions(self) -> Permissions:
        """The values of the form; else those of the template; else all that the policy allows."""
        cleaned, policy, template = self.cleaned_data, self.team.policy, self.chosen_template
        default = template.permissions_within(policy) if template else widest_permissions(policy)
        # A star alone is cleaned to nothing, and means all that the policy allows.
        has_models = bool(self.data.get("models", "").strip())
        models = widest_permissions(policy).models if has_models else default.models
        return Permissions(
            cleaned["models"] or models,
            Endpoints(cleaned["endpoints"] or default.endpoints),
            cleaned["networks"] or default.networks,
        )

    def _error_field(self, field: str) -> str:
        """The field that shows the error: the template, if the value is from there."""
        if self.chosen_template and field != "name" and not self.data.get(field):
            return "template"
        return "expiry_date" if field == "lifetime" and self.data.get(field) == DATE else field

    @property
    def issue_arguments(self) -> dict[str, Any]:
        """Arguments for `ApiKey.objects.issue`."""
        names = ("name", *DETAILS, "expires_at", "nonce")
        owner = self.cleaned_data["owner"] or self.creator.user
        return {name: self.cleaned_data[name] for name in names} | {
            "owner": owner,
            "permissions": self.permissions,
        }
