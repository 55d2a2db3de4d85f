"""Forms of the operators' pages."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.catalog.models import NameTaken, Route, ServedModel, Upstream
from keyportal.teams.models import Team

EVERYBODY = "All teams"


def team_field() -> "forms.ModelChoiceField[Team]":
    teams = Team.objects.order_by("name", "slug")
    return forms.ModelChoiceField(teams, required=False, label="For", empty_label=EVERYBODY)


def prefix(team: Team | None) -> str:
    """What the names of models begin with, that are for this team or for all."""
    return f"{team.slug if team else 'public'}/"


class DiscoverForm(forms.Form):
    """Which of the listed models are served, and for whom."""

    ids = forms.MultipleChoiceField(
        label="Models", error_messages={"required": "Tick the models that you want to serve."}
    )

    def __init__(self, data: Any = None, *, ids: list[str]) -> None:
        super().__init__(data)
        self.fields["ids"].choices = [(id_, id_) for id_ in ids]  # type: ignore[attr-defined]
        self.fields["team"] = team_field()


class ModelForm(forms.Form):
    """One model, by its name on the server: for servers without a list, and for other names."""

    upstream_model = forms.CharField(
        label="Name on the server",
        max_length=200,
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
    name = forms.CharField(
        label="Name for callers",
        max_length=200,
        required=False,
        help_text="Begins with public/ or the slug of the team, which are added if they are "
        "missing. Empty: the name on the server.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: Any = None) -> None:
        super().__init__(data)
        self.fields["team"] = team_field()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        if id_ := cleaned.get("upstream_model"):
            start = prefix(cleaned.get("team"))
            name = cleaned.get("name") or id_
            cleaned["name"] = name if name.startswith(start) else start + name
        return cleaned

    def serve(self, upstream: Upstream) -> bool:
        """Whether that worked; otherwise the form says why not. Call it in a transaction."""
        cleaned = self.cleaned_data
        try:
            ServedModel.objects.serve(
                cleaned["name"],
                team=cleaned["team"],
                upstream=upstream,
                upstream_model=cleaned["upstream_model"],
            )
        except NameTaken as error:
            self.add_error("name", str(error))
        except ValidationError as error:
            for field, messages in error.message_dict.items():
                self.add_error(field if field in self.fields else None, messages)
        return self.is_valid()


def served_ids(upstream: Upstream) -> dict[str, list[str]]:
    """The names under which the server's models are served, by their names there."""
    names: dict[str, list[str]] = {}
    routes = Route.objects.filter(upstream=upstream).order_by("model__name")
    for id_, name in routes.values_list("upstream_model", "model__name"):
        names.setdefault(id_, []).append(name)
    return names
