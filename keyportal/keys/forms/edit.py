"""What a person may type to change a key that is there."""

from datetime import UTC
from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from keyportal.catalog.models import ServedModel
from keyportal.keys.changes import Changes
from keyportal.keys.forms.expiry import DATE, ExpiryForm
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import (
    Endpoints,
    Permissions,
    normalize_networks,
    normalize_patterns,
)
from keyportal.keys.rules.validators import (
    normalize_tags,
    normalize_text,
    require_no_key,
    require_printable,
    split_words,
)
from keyportal.teams.forms import VersionedForm
from keyportal.teams.models import Role, User

ALL, CHOSEN = "all", "chosen"
MAX_INPUT_LENGTH = 30_000  # Characters; room for all that may be listed.


def _textarea(placeholder: str) -> forms.Textarea:
    return forms.Textarea({"rows": 3, "placeholder": placeholder, "spellcheck": "false"})


class PermissionsForm(VersionedForm):
    """Models, endpoints and addresses."""

    scope = forms.ChoiceField(
        label="Models",
        choices=[(ALL, "All that the team may call"), (CHOSEN, "Only these")],
        widget=forms.RadioSelect,
    )
    models = forms.MultipleChoiceField(required=False, widget=forms.CheckboxSelectMultiple)
    patterns = forms.CharField(
        label="More names, or patterns",
        help_text="One a line. A star stands for any text.",
        required=False,
        max_length=MAX_INPUT_LENGTH,
        validators=[require_no_key],
        widget=_textarea("public/*"),
    )
    endpoints = forms.ChoiceField(choices=Endpoints.choices, widget=forms.RadioSelect)
    networks = forms.CharField(
        label="Source addresses",
        help_text="One a line: an address, or a network (CIDR). Empty: from everywhere.",
        required=False,
        max_length=MAX_INPUT_LENGTH,
        validators=[require_no_key],
        widget=_textarea("192.0.2.0/24"),
    )

    def __init__(self, data: Any = None, *, key: ApiKey, conflict: str = "") -> None:
        names = [*ServedModel.objects.callable_by(key.team).values_list("name", flat=True)]
        now: Permissions = key.permissions
        initial = {
            "scope": CHOSEN if now.models else ALL,
            "models": [name for name in now.models if name in names],
            "patterns": "\n".join(name for name in now.models if name not in names),
            "endpoints": now.endpoints,
            "networks": "\n".join(now.networks),
        }
        super().__init__(data, row=key, initial=initial, conflict=conflict)
        self.fields["models"].choices = [(name, name) for name in names]  # type: ignore[attr-defined]  # it is a choice

    @staticmethod
    def current_values(row: ApiKey) -> dict[str, object]:
        models, endpoints, networks = row.permissions
        return {"models": models, "endpoints": endpoints, "source addresses": networks}

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
        """Nothing chosen is told, because an empty list would be all models."""
        if self.cleaned_data["scope"] == ALL:
            return ()
        chosen = [*self.cleaned_data["models"], *self.cleaned_data["patterns"]]
        try:
            if not chosen:
                raise ValidationError("Choose a model, or write a pattern.")
            return normalize_patterns(chosen)
        except ValidationError as refusal:
            self.add_error("patterns", refusal)
            return ()


class EditForm(VersionedForm):
    name = forms.CharField(
        max_length=64,
        validators=[require_printable, require_no_key],
        error_messages={"required": "Give the key a name."},
        widget=forms.TextInput({"autocomplete": "off", "spellcheck": "false", "autofocus": True}),
    )
    description = forms.CharField(
        required=False,
        max_length=500,
        validators=[require_no_key],
        widget=forms.Textarea({"rows": 3}),
    )
    tags = forms.CharField(
        required=False,
        max_length=1000,
        help_text="Words, divided by commas or spaces.",
        widget=forms.TextInput({"autocomplete": "off", "placeholder": "ci, batch"}),
    )

    def __init__(self, data: Any = None, *, key: ApiKey, conflict: str = "") -> None:
        initial = {**self.current_values(key), "tags": ", ".join(key.tags)}
        super().__init__(data, row=key, initial=initial, conflict=conflict)

    @staticmethod
    def current_values(row: ApiKey) -> dict[str, object]:
        return {"name": row.name, "description": row.description, "tags": row.tags}

    def clean_description(self) -> str:
        return normalize_text(self.cleaned_data["description"])

    def clean_tags(self) -> tuple[str, ...]:
        return tuple(normalize_tags([self.cleaned_data["tags"]]))

    @property
    def changes(self) -> Changes:
        typed = self.cleaned_data
        return Changes(typed["name"], typed["description"], typed["tags"])


class OwnerField(forms.ModelChoiceField):  # type: ignore[type-arg]  # not generic at run time
    def label_from_instance(self, obj: User) -> str:
        return obj.get_username()


class HandOverForm(forms.Form):
    owner = OwnerField(
        queryset=User.objects.none(),
        label="New owner",
        empty_label="Choose a member",
        error_messages={"invalid_choice": "That is no member of this team who could own a key."},
    )

    def __init__(self, data: Any = None, *, key: ApiKey) -> None:
        super().__init__(data)
        owning = [role for role in Role if role.rank >= Role.MEMBER.rank]
        others = User.objects.filter(
            memberships__team=key.team, memberships__role__in=owning, is_active=True
        ).exclude(pk=key.owner_id)
        self.fields["owner"].queryset = others.order_by("username")  # type: ignore[attr-defined]  # it is a choice

    @property
    def has_choice(self) -> bool:
        return bool(self.fields["owner"].queryset.exists())  # type: ignore[attr-defined]  # it is a choice


class KeyExpiryForm(ExpiryForm, VersionedForm):
    """Starts with the end that the key has, and keeps it to the second where its day stays."""

    def __init__(self, data: Any = None, *, key: ApiKey, conflict: str = "") -> None:
        self.end = None if key.has_expired else key.expires_at
        initial: dict[str, object] = {}
        if self.end:
            initial = {"lifetime": DATE, "expiry_date": self.end.astimezone(UTC).date()}
        super().__init__(data, policy=key.team.policy, row=key, initial=initial, conflict=conflict)

    @staticmethod
    def current_values(row: ApiKey) -> dict[str, object]:
        return {"expiry": row.expires_at}

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean()
        chosen = cleaned.get("lifetime") or self["lifetime"].initial
        is_its_day = self.end and cleaned.get("expiry_date") == self.end.astimezone(UTC).date()
        if chosen == DATE and is_its_day:
            cleaned["expires_at"] = self.end
        return cleaned

    @property
    def changes(self) -> Changes:
        return Changes(expires_at=self.cleaned_data["expires_at"])
