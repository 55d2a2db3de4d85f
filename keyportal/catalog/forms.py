"""The form of a model server. Its secrets are write-only: none is ever displayed."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator

from keyportal.catalog.headers import validate as validate_headers
from keyportal.catalog.models import Upstream
from keyportal.catalog.servers.discovery import normalize_base_url
from keyportal.catalog.servers.presets import PRESETS
from keyportal.teams.forms import VersionedModelForm, placeholder_in

ENTER_AGAIN = "Enter it again: it is not displayed."


class WriteOnlyTextarea(forms.Textarea):
    """Never shows what was entered, like a password field, also after a mistake elsewhere."""

    def format_value(self, value: object) -> str:
        return ""


class UpstreamForm(VersionedModelForm):
    credential = forms.CharField(
        required=False,
        # Attack: header injection. The credential becomes a header value, so it has no line break.
        validators=[RegexValidator(r"\A[!-~]*\Z", "Use visible ASCII characters only.")],
        widget=forms.PasswordInput(
            attrs={"autocomplete": "new-password", "class": "vTextField"}, render_value=False
        ),
        help_text="The API key or token that Keyportal sends to this model server. Stored "
        "encrypted and never displayed. Leave empty to keep the current one.",
    )
    forget_credential = forms.BooleanField(
        required=False, help_text="Call this model server without a credential from now on."
    )
    headers = forms.CharField(
        required=False,
        validators=[validate_headers],
        widget=WriteOnlyTextarea(attrs={"rows": 3, "class": "vLargeTextField"}),
        help_text="Headers that this model server needs with each call, one “Name: value” a line. "
        "Stored encrypted and never displayed. Leave empty to keep the current ones.",
    )
    forget_headers = forms.BooleanField(
        required=False, help_text="Call this model server without these headers from now on."
    )

    class Meta:
        model = Upstream
        fields = [
            "name",
            "base_url",
            "credential_header",
            "takes_stream_options",
            "connect_timeout",
            "first_byte_timeout",
            "read_timeout",
            "sends_keepalive",
            "ca_file",
            "client_certificate_file",
        ]
        help_texts = {
            "base_url": "As for an OpenAI client, such as http://127.0.0.1:8001/v1. Without a "
            "path, /v1 is added. A query, such as ?api-version=2024-10-21, goes with each call; "
            "it is displayed, so it must not contain a secret."
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.instance.pk:
            for name in ("credential", "headers"):  # There is nothing to keep.
                text = str(self.fields[name].help_text)
                self.fields[name].help_text = text.partition(" Leave empty")[0]

    def clean_base_url(self) -> str:
        base_url = normalize_base_url(self.cleaned_data["base_url"])
        if placeholder := placeholder_in(base_url, PRESETS):
            raise ValidationError(f"Replace {placeholder} in this address.")
        return base_url

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        for name in ("credential", "headers"):
            secret, forget = cleaned.get(name, ""), cleaned.get(f"forget_{name}")
            if secret and forget:
                self.add_error(f"forget_{name}", "Enter a new value or forget the old, not both.")
            if secret or forget:
                # Set it before the validation of the model, which checks URL and secrets together.
                setattr(self.instance, name, secret)
        return cleaned

    def ask_for_secrets_again(self) -> None:
        """The refused form comes back without them. Sent like that, it would keep the former."""
        for name in ("credential", "headers"):
            if self.cleaned_data.get(name):
                self.add_error(name, ENTER_AGAIN)

    def save_changes(self) -> Upstream:
        """Save a new server, or only what was changed. Call it in the form's transaction."""
        upstream: Upstream = self.instance
        if upstream._state.adding:
            upstream.save()
            return upstream
        columns = {field.name for field in Upstream._meta.concrete_fields}
        secrets = {
            f"encrypted_{name}"
            for name in ("credential", "headers")
            if self.cleaned_data[name] or self.cleaned_data[f"forget_{name}"]
        }
        upstream.save(update_fields=columns.intersection(self.changed_data) | secrets)
        return upstream


class TeamUpstreamForm(UpstreamForm):
    """For a server that a team has added. Its files would be those of the operators' host."""

    class Meta(UpstreamForm.Meta):
        fields = [name for name in UpstreamForm.Meta.fields if not name.endswith("_file")]
        help_texts = {
            "base_url": "As for an OpenAI client, such as https://api.example.com/v1. Without a "
            "path, /v1 is added. A query goes with each call; it is displayed, so it must not "
            "contain a secret."
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Attack: a line break in it adds a line to the log.
        name = RegexValidator(r"\A[\w.-]+( [\w.-]+)*\Z", "Use letters, digits, spaces and . _ -")
        self.fields["name"].validators.append(name)
