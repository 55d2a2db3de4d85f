"""The forms of a served model on the operators' pages."""

from typing import Any

from django import forms

from keyportal.catalog.aliases import Alias
from keyportal.catalog.former_names import require_free
from keyportal.catalog.models import ServedModel
from keyportal.operators.model_details import possible_successors, save_details
from keyportal.teams.forms import VersionedModelForm


class ModelDetailsForm(VersionedModelForm):
    class Meta:
        model = ServedModel
        fields = [
            "description",
            "context_length",
            "takes_pictures",
            "takes_tools",
            "prices",
            "only_teams",
            "retires_on",
            "successor",
        ]
        widgets = {
            "description": forms.Textarea({"rows": 2}),
            "retires_on": forms.DateInput({"type": "date"}, format="%Y-%m-%d"),
            "only_teams": forms.SelectMultiple({"size": 6}),
        }
        labels = {"only_teams": "Only for these teams"}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        model: ServedModel = self.instance
        successors = possible_successors(model)
        self.fields["successor"].queryset = successors  # type: ignore[attr-defined]
        if model.team:
            del self.fields["only_teams"]

    def save_changes(self) -> int:
        """Save only what was changed, in the form's transaction. Returns how many owners of keys
        get a mail because the model goes away.
        """
        columns = {field.name for field in ServedModel._meta.concrete_fields}
        changed = columns.intersection(self.changed_data)
        teams = self.cleaned_data["only_teams"] if "only_teams" in self.changed_data else None
        return save_details(self.instance, changed, teams)


class AliasForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    class Meta:
        model = Alias
        fields = ["name", "team"]
        labels = {"name": "Alias", "team": "For"}
        widgets = {
            "name": forms.TextInput(
                {"autocomplete": "off", "spellcheck": "false", "placeholder": "gpt-4o"}
            )
        }
        help_texts = {"team": ""}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["team"].empty_label = "All teams"  # type: ignore[attr-defined]

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"])
        require_free(name)
        return name
