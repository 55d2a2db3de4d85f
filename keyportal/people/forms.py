"""Forms of the members page, and of the page where somebody accepts an invitation."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from allauth.account.forms import SignupForm
from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.http import HttpRequest

from keyportal.keys.keystring import require_no_key
from keyportal.keys.models import ApiKey
from keyportal.people.models import MAX_NOTE_LENGTH, Invitation
from keyportal.people.removal import KeyRow
from keyportal.teams.access import grantable_roles
from keyportal.teams.forms import VersionedForm
from keyportal.teams.models import Membership, Role, User

MAX_EMAILS = 50
MAX_LENGTH = 20_000
STOP = "stop"
ACCOUNT_EXISTS = "There is an account with this address already. Sign in instead."


def clean_emails(text: str) -> list[str]:
    """The addresses in a pasted list, in lower case: `"Roe, Bob" <bob@example.com>, carol@...`.

    Raises `ValidationError` for the first that is none, or for too many.
    """
    without_quoted_names = re.sub(r'"[^"]*"', " ", text)
    words = [
        word
        for part in re.split(r"[,;\n\r]+", without_quoted_names)
        for word in _without_name(part).split()
    ]
    for word in words:
        require_no_key(word)
        try:
            validate_email(word)
        except ValidationError:
            raise ValidationError(f"{word[:100]} is not an e-mail address.") from None
    emails = [*dict.fromkeys(word.lower() for word in words)]
    if not emails:
        raise ValidationError("Enter at least one e-mail address.")
    if len(emails) > MAX_EMAILS:
        raise ValidationError(f"At most {MAX_EMAILS} addresses at once.")
    return emails


def _without_name(part: str) -> str:
    match = re.fullmatch(r"[^<>]*<([^<>]+)>\s*", part)
    return match[1] if match else part


def role_choices(role: str) -> list[tuple[str, str]]:
    """The roles that a member with `role` gives, the weakest first."""
    return [(each.value, each.label) for each in grantable_roles(Role(role))]


class InviteForm(forms.Form):
    emails = forms.CharField(
        label="E-mail addresses",
        max_length=MAX_LENGTH,
        error_messages={"required": "Enter at least one e-mail address."},
        help_text="One, or a list with commas or one a line.",
        widget=forms.Textarea({"rows": 3, "autofocus": True, "spellcheck": "false"}),
    )
    role = forms.ChoiceField(label="Role", initial=Role.MEMBER)
    note = forms.CharField(
        label="Note (optional)",
        required=False,
        max_length=MAX_NOTE_LENGTH,
        validators=[require_no_key],
        help_text="Plain text, in the mail and on the page of the invitation.",
        widget=forms.TextInput({"autocomplete": "off"}),
    )

    def __init__(self, data: Any = None, *, role: str) -> None:
        """`role` is that of whoever invites."""
        super().__init__(data)
        self.fields["role"].choices = role_choices(role)  # type: ignore[attr-defined]  # it is a choice

    def clean_emails(self) -> list[str]:
        return clean_emails(self.cleaned_data["emails"])


class RoleForm(VersionedForm):
    role = forms.ChoiceField(label="Role")

    def __init__(
        self, data: Any = None, *, member: Membership, role: str, conflict: str = ""
    ) -> None:
        """`role` is that of whoever changes it."""
        super().__init__(data, row=member, initial={"role": member.role}, conflict=conflict)
        self.fields["role"].choices = role_choices(role)  # type: ignore[attr-defined]  # it is a choice

    @staticmethod
    def current_values(row: Membership) -> dict[str, object]:
        return {"role": row.role}


class RemoveForm(VersionedForm):
    """Who gets the keys of a member who goes: nobody, one person, or each key another one."""

    to = forms.ChoiceField(label="Hand all keys over to", required=False)

    def __init__(
        self,
        data: Any = None,
        *,
        member: Membership,
        rows: Sequence[KeyRow],
        owners: Sequence[User],
        conflict: str = "",
    ) -> None:
        self._owners = {str(owner.pk): owner for owner in owners}
        self.rows = rows
        self._names = {f"to_{row.key.public_id}": row.key for row in rows if owners}
        super().__init__(data, row=member, initial={}, conflict=conflict)
        people = [(pk, owner.get_username()) for pk, owner in self._owners.items()]
        self.fields["to"].choices = [("", "Nobody: they stop"), *people]  # type: ignore[attr-defined]  # it is a choice
        for name, key in self._names.items():
            self.fields[name] = forms.ChoiceField(
                label=key.name,
                required=False,
                choices=[("", "As all keys"), (STOP, "Nobody: it stops"), *people],
            )

    @staticmethod
    def current_values(row: Membership) -> dict[str, object]:
        keys = ApiKey.objects.for_team(row.team).filter(owner=row.user_id).order_by("pk")
        return {"role": row.role, "API keys": [*keys.values_list("public_id", flat=True)]}

    @property
    def key_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self._names]

    @property
    def by_key_is_open(self) -> bool:
        return any(field.value() for field in self.key_fields)

    @property
    def has_owners(self) -> bool:
        return bool(self._owners)

    @property
    def to_owner(self) -> User | None:
        return self._owners.get(self.cleaned_data["to"])

    @property
    def by_key(self) -> Mapping[str, User | None]:
        """The keys that do not go where the others go; None: the key stops."""
        chosen = {key.public_id: self.cleaned_data[name] for name, key in self._names.items()}
        return {public_id: self._owners.get(pk) for public_id, pk in chosen.items() if pk}


class JoinForm(SignupForm):  # type: ignore[misc]  # untyped base
    """A new account for the address of an invitation, which nobody can change."""

    def __init__(self, data: Any = None, *, invitation: Invitation) -> None:
        super().__init__(data)
        del self.fields["email"]
        self._email = invitation.email

    def clean_username(self) -> str:
        """Attack: a user name that is somebody else's address, with which they sign in."""
        require_no_key(self.cleaned_data["username"])
        if "@" in self.cleaned_data["username"]:
            raise ValidationError("Choose a name without @.")
        return str(super().clean_username())

    def clean(self) -> dict[str, Any]:
        self.cleaned_data["email"] = self._email
        cleaned: dict[str, Any] = super().clean()
        if not self.errors and User.objects.filter(email__iexact=self._email).exists():
            raise ValidationError(ACCOUNT_EXISTS)
        return cleaned

    def save(self, request: HttpRequest) -> User:
        user: User = super().save(request)
        return user
