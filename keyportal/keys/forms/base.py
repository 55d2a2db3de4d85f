"""Of forms: the mark of one that works once, the name of a new key, how the list is searched."""

import secrets

from django import forms

from keyportal.keys.rules.validators import require_no_key, require_printable


def new_nonce() -> str:
    return secrets.token_urlsafe(16)


class NonceForm(forms.Form):
    """Makes something that is shown once; what else there is to say of it, other fields do."""

    # Protects the person who reloads or goes back from a second secret; it is no security
    # boundary, so a program without one is served.
    nonce = forms.CharField(
        max_length=64,
        required=False,
        validators=[require_no_key],
        initial=new_nonce,
        widget=forms.HiddenInput,
    )


class NameField(forms.CharField):
    """The name of a new key, of either kind: the first thing that is typed into its form."""

    def __init__(self, *, placeholder: str, missing: str) -> None:
        super().__init__(
            max_length=64,
            validators=[require_printable, require_no_key],
            error_messages={"required": missing},
            widget=forms.TextInput(
                attrs={
                    "placeholder": placeholder,
                    "autocomplete": "off",
                    "autofocus": True,
                    "spellcheck": "false",
                }
            ),
        )
