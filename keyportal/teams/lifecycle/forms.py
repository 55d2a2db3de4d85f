"""The forms of a team's settings."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.keys.keystring import require_no_key
from keyportal.teams.forms import VersionedForm
from keyportal.teams.models import Team


class NameField(forms.CharField):
    def __init__(self) -> None:
        super().__init__(
            max_length=100,
            validators=[require_no_key],
            error_messages={"required": "Enter a name."},
            help_text="Shown in the portal and in mails. Two teams may have the same name.",
            widget=forms.TextInput({"autocomplete": "off"}),
        )


class NameForm(VersionedForm):
    name = NameField()

    def __init__(self, data: Any = None, *, team: Team, conflict: str = "") -> None:
        super().__init__(data, row=team, initial={"name": team.name}, conflict=conflict)

    @staticmethod
    def current_values(row: Team) -> dict[str, object]:
        return {"name": row.name}


class CreateForm(forms.Form):
    name = NameField()
    slug = forms.SlugField(
        required=False,
        max_length=64,
        help_text="Part of the addresses of its pages and of the names of its models, such as "
        "acme in acme/llama. Lower-case letters, digits and hyphens. Empty: a random one.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )

    def add_errors(self, error: ValidationError) -> None:
        for field, messages in error.message_dict.items():
            for message in messages:
                self.add_error(field if field in self.fields else None, message)


class SlugForm(VersionedForm):
    slug = forms.SlugField(
        max_length=64,
        label="New slug",
        error_messages={"required": "Enter a slug."},
        help_text="Lower-case letters, digits and hyphens.",
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, data: Any = None, *, team: Team, conflict: str = "") -> None:
        super().__init__(data, row=team, initial={"slug": team.slug}, conflict=conflict)

    @staticmethod
    def current_values(row: Team) -> dict[str, object]:
        return {"slug": row.slug}


class DeleteForm(forms.Form):
    """Compared with the name under the lock."""

    name = forms.CharField(
        label="Name of the team",
        max_length=100,
        error_messages={"required": "Enter the name of the team."},
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false"}),
    )
