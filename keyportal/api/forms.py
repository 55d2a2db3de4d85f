"""The form for a new management key."""

from datetime import timedelta
from typing import Any

from django import forms

from keyportal.api.scopes import Scope
from keyportal.database.clock import database_now
from keyportal.keys.forms.base import NameField, NonceForm
from keyportal.keys.forms.fields import ModelsField, NetworksField
from keyportal.keys.rules.permissions import Endpoints, Permissions

LIFETIMES = [("30", "30 days"), ("90", "90 days"), ("365", "A year"), ("", "Until it is deleted")]


class ManagementKeyForm(NonceForm):
    name = NameField(placeholder="deploy", required_message="Give the management key a name.")
    scopes = forms.MultipleChoiceField(
        choices=Scope.choices,
        widget=forms.CheckboxSelectMultiple,
        error_messages={"required": "Choose what it is for."},
    )
    lifetime = forms.ChoiceField(
        label="It works for", choices=LIFETIMES, initial="90", required=False
    )
    models = ModelsField()
    endpoints = forms.ChoiceField(
        label="Endpoints", choices=Endpoints.choices, initial=Endpoints.ALL, required=False
    )
    networks = NetworksField()

    @property
    def issue_arguments(self) -> dict[str, Any]:
        """The arguments of `ManagementKey.objects.issue` that come from the form."""
        cleaned = self.cleaned_data
        days = cleaned["lifetime"]
        return {
            "name": cleaned["name"],
            "nonce": cleaned["nonce"],
            "scopes": [Scope(scope) for scope in cleaned["scopes"]],
            "expires_at": database_now() + timedelta(days=int(days)) if days else None,
            "permissions": Permissions(
                cleaned["models"],
                Endpoints(cleaned["endpoints"] or Endpoints.ALL),
                cleaned["networks"],
            ),
        }
