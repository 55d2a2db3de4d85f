"""The forms of a served model on the operators' pages."""

from typing import Any

from django import forms
from django.db.models import Q
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent, current_source
from keyportal.catalog.aliases import Alias
from keyportal.catalog.former_names import require_free
from keyportal.catalog.models import ServedModel
from keyportal.operators.retirement import tell_callers
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
        # Callers of the model read the name of its successor, so it is none of another team.
        visible = Q(team=None) | Q(team=model.team) if model.team else Q(team=None)
        successors = ServedModel.objects.filter(visible).exclude(pk=model.pk).order_by("name")
        self.fields["successor"].queryset = successors  # type: ignore[attr-defined]
        if model.team:
            del self.fields["only_teams"]

    def save_changes(self) -> int:
        """Save only what was changed, in the form's transaction. Returns how many owners of keys
        get a mail because the model goes away.
        """
        model: ServedModel = self.instance
        columns = {field.name for field in ServedModel._meta.concrete_fields}
        changed = columns.intersection(self.changed_data)
        if "retires_on" in changed:
            model.deprecated_at = timezone.now() if model.retires_on else None
            changed.add("deprecated_at")
        if changed:
            model.save(update_fields=changed)
        if "only_teams" in self.changed_data:
            self._save_teams(model)
        is_news = {"retires_on", "successor"} & changed
        return tell_callers(model) if is_news and model.retires_on else 0

    def _save_teams(self, model: ServedModel) -> None:
        before, now = (
            ", ".join(sorted(team.slug for team in teams)) or "all teams"
            for teams in (model.only_teams.all(), self.cleaned_data["only_teams"])
        )
        model.only_teams.set(self.cleaned_data["only_teams"])
        AuditEvent.objects.record_changes(
            Action.CATALOG_CHANGED,
            target=f"Model {model}"[:100],
            changes=[f"Only for: {before} → {now}"],
            **current_source(),
        )


class AliasForm(forms.ModelForm):  # type: ignore[type-arg]  # not generic at run time
    class Meta:
        model = Alias
        fields = ["name", "team"]
        labels = {"name": "Other name", "team": "For"}
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
