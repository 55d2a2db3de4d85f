"""Shared by forms: the one-use form nonce, the name of a new key, and the details of a key."""

import secrets

from django import forms

from keyportal.keys.keystring import require_no_key
from keyportal.keys.rules.validators import normalize_tags, normalize_text, require_printable


def new_nonce() -> str:
    return secrets.token_urlsafe(16)


class NonceForm(forms.Form):
    """A form whose result is shown once, such as a key string. It can be submitted once."""

    # Prevents a second secret after a reload or the Back button. It is not a security boundary,
    # so a request without a nonce is accepted.
    nonce = forms.CharField(
        max_length=64,
        required=False,
        validators=[require_no_key],
        initial=new_nonce,
        widget=forms.HiddenInput,
    )


class NameField(forms.CharField):
    """The name of a new API or management key, and the first field of its form."""

    def __init__(self, *, placeholder: str, required_message: str) -> None:
        super().__init__(
            max_length=64,
            validators=[require_printable, require_no_key],
            error_messages={"required": required_message},
            widget=forms.TextInput(
                attrs={
                    "placeholder": placeholder,
                    "autocomplete": "off",
                    "autofocus": True,
                    "spellcheck": "false",
                }
            ),
        )


class DetailsForm(forms.Form):
    """The fields of `KeyDetails`, for a new key and for changes."""

    description = forms.CharField(
        required=False,
        max_length=500,
        validators=[require_no_key],
        widget=forms.Textarea({"rows": 3}),
    )
    tags = forms.CharField(
        required=False,
        max_length=1000,
        help_text="Words, separated by commas or spaces.",
        widget=forms.TextInput({"autocomplete": "off", "placeholder": "ci, batch"}),
    )

    def clean_description(self) -> str:
        return normalize_text(self.cleaned_data["description"])

    def clean_tags(self) -> list[str]:
        return normalize_tags([self.cleaned_data["tags"]])
