"""Forms of the operators' pages."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.catalog.management.discovered_models import serve_all
from keyportal.catalog.models import NameTaken, Route, ServedModel, Upstream
from keyportal.teams.models import Team

EVERYBODY = "All teams"
MAX_TEAM_MODELS = 200


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

    def __init__(self, data: Any = None, *, upstream: Upstream, ids: list[str]) -> None:
        super().__init__(data)
        self.upstream = upstream
        self.fields["ids"].choices = [(id_, id_) for id_ in ids]  # type: ignore[attr-defined]
        if not upstream.team:
            self.fields["team"] = team_field()

    @property
    def team(self) -> Team | None:
        """For whom: a team's server has models for this team only."""
        return self.upstream.team or self.cleaned_data["team"]

    def serve(self, upstream: Upstream) -> tuple[list[str], list[str]]:
        """What `serve_all` returns; nothing if the form says why. Call it under the lock."""
        ids = self.cleaned_data["ids"]
        if full := full_team(upstream, len(ids)):
            self.add_error(None, full)
            return [], []
        team = upstream.team or self.team
        return serve_all(ids, team, upstream, advice="Add it under another name.")


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

    def __init__(self, data: Any = None, *, upstream: Upstream) -> None:
        super().__init__(data)
        self.upstream = upstream
        if upstream.team:
            start = prefix(upstream.team)
            self.fields[
                "name"
            ].help_text = f"Begins with {start}, which is added. Empty: the name on the server."
        else:
            self.fields["team"] = team_field()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        cleaned["team"] = self.upstream.team or cleaned.get("team")
        if id_ := cleaned.get("upstream_model"):
            cleaned["name"] = cleaned.get("name") or id_
        return cleaned

    def serve(self, upstream: Upstream) -> bool:
        """Whether that worked; otherwise the form says why not. Call it under the lock."""
        cleaned = self.cleaned_data
        if full := full_team(upstream, 1):
            self.add_error(None, full)
            return False
        # With the slug that the team has now: an owner may just have changed it.
        team = upstream.team or cleaned["team"]
        start, name = prefix(team), cleaned["name"]
        cleaned["name"] = name if name.startswith(start) else start + name
        try:
            ServedModel.objects.serve(
                cleaned["name"],
                team=team,
                upstream=upstream,
                upstream_model=cleaned["upstream_model"],
            )
        except NameTaken as error:
            self.add_error("name", str(error))
        except ValidationError as error:
            for field, messages in error.message_dict.items():
                self.add_error(field if field in self.fields else None, messages)
        return self.is_valid()


def full_team(upstream: Upstream, new: int) -> str:
    """Why a team's server can't serve so many more; empty if it can.

    Attack: a team fills the catalog, which every worker keeps in memory, also with several forms
    at once. So it is judged under the lock.
    """
    if not upstream.team:
        return ""
    count = Route.objects.filter(upstream__team=upstream.team).count()
    if count + new <= MAX_TEAM_MODELS:
        return ""
    return (
        f"The servers of a team serve at most {MAX_TEAM_MODELS} models; those of this team serve "
        f"{count}."
    )


def served_ids(upstream: Upstream) -> dict[str, list[str]]:
    """The names under which the server's models are served, by their names there."""
    names: dict[str, list[str]] = {}
    routes = Route.objects.filter(upstream=upstream).order_by("model__name")
    for id_, name in routes.values_list("upstream_model", "model__name"):
        names.setdefault(id_, []).append(name)
    return names
