"""Forms that change a key."""

from datetime import UTC
from typing import Any, cast

from django import forms
from django.core.exceptions import ValidationError

from keyportal.catalog.models import ServedModel
from keyportal.keys.changes import EDITABLE, Changes
from keyportal.keys.forms.base import DetailsForm
from keyportal.keys.forms.expiry import DATE, ExpiryForm
from keyportal.keys.keystring import require_no_key
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import (
    Endpoints,
    Permissions,
    normalize_networks,
    normalize_patterns,
)
from keyportal.keys.rules.validators import require_printable, split_words
from keyportal.teams.forms import VersionedForm
from keyportal.teams.models import Role, User

ALL, CHOSEN = "all", "chosen"
MAX_INPUT_LENGTH = 30_000  # Characters; enough for the longest valid list.


def _textarea(placeholder: str) -> forms.Textarea:
    return forms.Textarea({"rows": 3, "placeholder": placeholder, "spellcheck": "false"})


class PermissionsForm(VersionedForm):
    scope = forms.ChoiceField(
        label="Models",
        choices=[(ALL, "All that the team may call"), (CHOSEN, "Only these")],
        widget=forms.RadioSelect,
    )
    models = forms.MultipleChoiceField(required=False, widget=forms.CheckboxSelectMultiple)
    patterns = forms.CharField(
        label="More names or patterns",
        help_text="One per line. * matches any text.",
        required=False,
        max_length=MAX_INPUT_LENGTH,
        validators=[require_no_key],
        widget=_textarea("public/*"),
    )
    endpoints = forms.ChoiceField(choices=Endpoints.choices, widget=forms.RadioSelect)
    networks = forms.CharField(
        label="Allowed networks",
        help_text="One per line: an address or a network (CIDR). Empty: all.",
        required=False,
        max_length=MAX_INPUT_LENGTH,
        validators=[require_no_key],
        widget=_textarea("192.0.2.0/24"),
    )

    def __init__(self, data: Any = None, *, key: ApiKey, conflict: str = "") -> None:
        names = [*ServedModel.objects.callable_by(key.team).values_list("name", flat=True)]
        permissions: Permissions = key.permissions
        initial = {
            "scope": CHOSEN if permissions.models else ALL,
            "models": [name for name in permissions.models if name in names],
            "patterns": "\n".join(name for name in permissions.models if name not in names),
            "endpoints": permissions.endpoints,
            "networks": "\n".join(permissions.networks),
        }
        super().__init__(data, row=key, initial=initial, conflict=conflict)
        self.fields["models"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]  # it is a choice

    @staticmethod
    def current_values(row: ApiKey) -> dict[str, object]:
        models, endpoints, networks = row.permissions
        return {"models": models, "endpoints": endpoints, "allowed networks": networks}

    def clean_patterns(self) -> tuple[str, ...]:
        return tuple(split_words(self.cleaned_data["patterns"]))

    def clean_networks(self) -> tuple[str, ...]:
        return normalize_networks(split_words(self.cleaned_data["networks"]))

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if not self.errors:
            endpoints = Endpoints(cleaned["endpoints"])
            cleaned["permissions"] = Permissions(self._models(), endpoints, cleaned["networks"])
        return cleaned

    @property
    def changes(self) -> Changes:
        return Changes(permissions=self.cleaned_data["permissions"])

    def _models(self) -> tuple[str, ...]:
        """It is an error to choose nothing, because an empty list would mean all models."""
        if self.cleaned_data["scope"] == ALL:
            return ()
        chosen = [*self.cleaned_data["models"], *self.cleaned_data["patterns"]]
        try:
            if not chosen:
                raise ValidationError("Choose a model or enter a pattern.")
            return normalize_patterns(chosen)
        except ValidationError as error:
            self.add_error("patterns", error)
            return ()


class EditForm(DetailsForm, VersionedForm):
    """The fields have the names of their columns."""

    name = forms.CharField(
        max_length=64,
        validators=[require_printable, require_no_key],
        error_messages={"required": "Give the key a name."},
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false", "autofocus": True}),
    )
    field_order = EDITABLE

    def __init__(self, data: Any = None, *, key: ApiKey, conflict: str = "") -> None:
        initial = {name: getattr(key, name) for name in EDITABLE}
        initial["tags"] = ", ".join(key.tags)
        super().__init__(data, row=key, initial=initial, conflict=conflict)

    @staticmethod
    def current_values(row: ApiKey) -> dict[str, object]:
        return {name.replace("_", " "): getattr(row, name) for name in EDITABLE}

    @property
    def changes(self) -> Changes:
        return cast("Changes", {name: self.cleaned_data[name] for name in EDITABLE})


class OwnerField(forms.ModelChoiceField):  # type: ignore[type-arg]  # not generic at run time
    def label_from_instance(self, obj: User) -> str:
        return obj.get_username()


class HandOverForm(VersionedForm):
    owner = OwnerField(
        queryset=User.objects.none(),
        label="New owner",
        empty_label="Choose a member",
        error_messages={"invalid_choice": "Choose a member of this team who can own keys."},
    )

    def __init__(self, data: Any = None, *, key: ApiKey, conflict: str = "") -> None:
        super().__init__(data, row=key, initial={}, conflict=conflict)
        roles = [role for role in Role if role.rank >= Role.MEMBER.rank]
        users = User.objects.filter(
            memberships__team=key.team, memberships__role__in=roles, is_active=True
        ).exclude(pk=key.owner_id)
        self.fields["owner"].queryset = users.order_by("username")  # type: ignore[attr-defined]  # it is a choice

    @staticmethod
    def current_values(row: ApiKey) -> dict[str, object]:
        return {"owner": row.owner_id}

    @property
    def has_choice(self) -> bool:
        return bool(self.fields["owner"].queryset.exists())  # type: ignore[attr-defined]  # it is a choice


class KeyExpiryForm(ExpiryForm, VersionedForm):
    """Shows the present expiry. If its day is not changed, the time of day stays too."""

    def __init__(self, data: Any = None, *, key: ApiKey, conflict: str = "") -> None:
        self.expires_at = None if key.has_expired else key.expires_at
        initial: dict[str, object] = {}
        if self.expires_at:
            initial = {"lifetime": DATE, "expiry_date": self.expires_at.astimezone(UTC).date()}
        super().__init__(
            data,
            policy=key.team.policy,
            now=key.read_at,
            row=key,
            initial=initial,
            conflict=conflict,
        )

    @staticmethod
    def current_values(row: ApiKey) -> dict[str, object]:
        return {"expiry": row.expires_at}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        chosen = cleaned.get("lifetime") or self["lifetime"].initial
        day = self.expires_at and self.expires_at.astimezone(UTC).date()
        if chosen == DATE and day and cleaned.get("expiry_date") == day:
            cleaned["expires_at"] = self.expires_at
        return cleaned

    @property
    def changes(self) -> Changes:
        return Changes(expires_at=self.cleaned_data["expires_at"])
