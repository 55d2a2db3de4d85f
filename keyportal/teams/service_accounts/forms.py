"""The forms of service accounts."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.keys.keystring import require_no_key
from keyportal.teams.forms import VersionedForm
from keyportal.teams.models import User
from keyportal.teams.service_accounts.changes import MAX_NAME_LENGTH, require_name

CONTACT_HELP = "Who gets the mails about its keys, such as a shared mailbox."


class ContactField(forms.EmailField):
    def __init__(self) -> None:
        super().__init__(
            max_length=254,
            validators=[require_no_key],
            error_messages={"required": "Enter an e-mail address."},
            help_text=CONTACT_HELP,
            widget=forms.EmailInput({"autocomplete": "off", "placeholder": "platform@example.com"}),
        )


class CreateForm(forms.Form):
    name = forms.CharField(
        max_length=MAX_NAME_LENGTH,
        validators=[require_name, require_no_key],
        error_messages={"required": "Give the service account a name."},
        help_text="Lower-case letters, digits and hyphens.",
        widget=forms.TextInput(
            {
                "autocomplete": "off",
                "autofocus": True,
                "spellcheck": "false",
                "placeholder": "nightly-build",
            }
        ),
    )
    contact = ContactField()

    def add_errors(self, error: ValidationError) -> None:
        """Errors of the row, at the fields of this form."""
        fields = {"username": "name", "contact": "contact"}
        for field, messages in error.message_dict.items():
            for message in messages:
                self.add_error(fields.get(field), message)


class ContactForm(VersionedForm):
    contact = ContactField()

    def __init__(self, data: Any = None, *, account: User, conflict: str = "") -> None:
        super().__init__(data, row=account, initial={"contact": account.contact}, conflict=conflict)

    @staticmethod
    def current_values(row: User) -> dict[str, object]:
        return {"contact": row.contact}
