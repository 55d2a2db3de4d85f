"""The forms of a team on the operators' pages."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.teams.forms import VersionedForm, limit_fields
from keyportal.teams.limits import LABELS, Limits
from keyportal.teams.models import Team, User


class TeamForm(VersionedForm):
    """What operators set: the name, the number of keys, and the limits of all keys together."""

    name = forms.CharField(max_length=100, widget=forms.TextInput({"autocomplete": "off"}))
    max_keys = forms.IntegerField(
        label="Maximum keys", min_value=0, max_value=1_000_000, help_text="Of the whole team."
    )

    def __init__(self, data: Any = None, *, team: Team, conflict: str = "") -> None:
        initial = {"name": team.name, "max_keys": team.max_keys, **team.limits._asdict()}
        super().__init__(data, row=team, initial=initial, conflict=conflict)
        self.fields |= limit_fields()

    @staticmethod
    def current_values(row: Team) -> dict[str, object]:
        limits = {LABELS[name].lower(): limit for name, limit in row.limits._asdict().items()}
        return {"name": row.name, "maximum keys": row.max_keys, **limits}

    @property
    def limit_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in LABELS]

    @property
    def changes(self) -> dict[str, Any]:
        """The columns of the team."""
        cleaned = self.cleaned_data
        limits = Limits(**{name: cleaned[name] for name in Limits._fields})
        return {"name": cleaned["name"], "max_keys": cleaned["max_keys"], "limits": limits}

    def add_save_error(self, error: ValidationError) -> None:
        for field, messages in error.message_dict.items():
            self.add_error(field if field in self.fields else None, messages)


class NewTeamForm(TeamForm):
    slug = forms.CharField(
        max_length=64,
        required=False,
        help_text="Part of addresses and model names. Empty: a random one.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
    owner = forms.CharField(
        max_length=254,
        required=False,
        label="First owner",
        help_text="A user name or e-mail address. An owner can invite others.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: Any = None) -> None:
        super().__init__(data, team=Team())

    def clean_owner(self) -> User | None:
        login = self.cleaned_data["owner"]
        owner = User.objects.find_by_login(login)
        if login and (owner is None or not owner.is_active or owner.is_service_account):
            raise ValidationError("There is no active user with this name or address.")
        return owner

    @property
    def team(self) -> Team:
        slug = {"slug": self.cleaned_data["slug"]} if self.cleaned_data["slug"] else {}
        return Team(**self.changes, **slug)
