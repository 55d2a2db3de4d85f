"""The forms of a team's settings."""

from typing import Any

from django import forms

from keyportal.teams.forms import VersionedForm
from keyportal.teams.models import Team


class NameForm(VersionedForm):
    name = forms.CharField(
        max_length=100,
        error_messages={"required": "Enter a name."},
        help_text="Shown in the portal and in mails. Two teams may have the same name.",
        widget=forms.TextInput({"autocomplete": "off"}),
    )

    def __init__(self, data: Any = None, *, team: Team, conflict: str = "") -> None:
        super().__init__(data, row=team, initial={"name": team.name}, conflict=conflict)

    def clean_name(self) -> str:
        name = str(self.cleaned_data["name"])
        Team._meta.get_field("name").run_validators(name)
        return name

    @staticmethod
    def current_values(row: Team) -> dict[str, object]:
        return {"name": row.name}
