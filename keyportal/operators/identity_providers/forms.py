"""The form of an identity provider, which runs the checks of the environment's ones too."""

from typing import Any

from allauth.socialaccount.models import SocialAccount
from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError

from keyportal.keys.keystring import require_no_key
from keyportal.operators.identity_providers.presets import PRESETS
from keyportal.teams.forms import VersionedModelForm, placeholder_in
from keyportal.teams.models import Role
from keyportal.teams.openid.configuration import problem_of
from keyportal.teams.openid.grants import teams_by_slug
from keyportal.teams.openid.stored import StoredProvider, words

FIELDS = {"id": "provider_id", "client_secret": "secret"}
AGAIN = "Enter the client secret again: it is not displayed."
PLAIN = {"autocomplete": "off", "spellcheck": "false"}
LINE = "Write “GROUP: SLUG ROLE”, such as “keyportal-leads: research admin”, not “{}”."


class GroupsField(forms.CharField):
    """Lines such as `staff: research member` for `{"staff": {"research": "member"}}`."""

    widget = forms.Textarea(PLAIN | {"rows": 4})

    def prepare_value(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        roles = ((group, pairs.items()) for group, pairs in value.items())
        return "\n".join(
            f"{group}: {slug} {role}" for group, pairs in roles for slug, role in pairs
        )

    def clean(self, value: Any) -> dict[str, dict[str, str]]:
        groups: dict[str, dict[str, str]] = {}
        for line in super().clean(value).splitlines():
            if line.strip():
                group, slug, role = _parsed(line)
                groups.setdefault(group, {})[slug] = role
        _require_teams({slug for roles in groups.values() for slug in roles})
        return groups


def _parsed(line: str) -> tuple[str, str, str]:
    # The last colon: a group may have some in its name, and a slug has none.
    group, _, rest = line.rpartition(":")
    match rest.split():
        case [slug, role] if group.strip():
            if role.lower() not in Role.values:
                roles = ", ".join(Role.values)
                raise ValidationError(f"{role[:50]} is no role. The roles are {roles}.")
            return group.strip(), slug.lower(), role.lower()
    raise ValidationError(LINE.format(line[:100]))


def _require_teams(slugs: set[str]) -> None:
    if unknown := sorted(slugs - teams_by_slug(slugs).keys()):
        raise ValidationError(f"No team has the slug {unknown[0][:64]}.")


class ProviderForm(VersionedModelForm):
    secret = forms.CharField(
        label="Client secret",
        required=False,
        max_length=1000,
        validators=[require_no_key],
        widget=forms.PasswordInput({"autocomplete": "new-password"}, render_value=False),
        help_text="Stored encrypted and never displayed. Leave empty to keep the present one.",
    )
    groups = GroupsField(
        required=False,
        max_length=20_000,
        validators=[require_no_key],
        label="Roles that groups give",
        help_text="One “GROUP: SLUG ROLE” a line, such as “keyportal-leads: research admin”, where "
        "SLUG is the team's. Roles are given and taken back at each sign-in.",
    )

    class Meta:
        model = StoredProvider
        fields = (
            *("provider_id", "name", "issuer", "client_id", "scopes", "domains"),
            *("create_accounts", "trust_addresses", "addresses_verified"),
            *("groups_claim", "groups"),
        )
        labels = {
            "name": "Name on the button",
            "domains": "Allowed domains",
            "create_accounts": "Make an account at a person's first sign-in",
            "trust_addresses": "Trust its addresses: connect people to the account that has theirs",
            "addresses_verified": "Count addresses as verified if it doesn't say so",
        }
        help_texts = {
            "provider_id": "Part of the redirect address, and stored with each connected account: "
            "it can't be changed.",
            "issuer": "As in the provider's discovery document. It begins with https://.",
            "scopes": "Separated by spaces.",
            "domains": "Separated by spaces, such as example.com. Only people with a verified "
            "address there sign in. A * allows every domain. Empty allows everybody, and the first "
            "two boxes below must then stay empty.",
            "trust_addresses": "Only if its administrators decide who has which address: they can "
            "then sign in as everybody in these domains, also as an operator.",
            "addresses_verified": "Only if its administrators give all addresses, as in one "
            "directory of Entra.",
            "groups_claim": "Where the provider names a person's groups.",
        }
        widgets = {
            name: forms.TextInput(PLAIN)
            for name in ("provider_id", "issuer", "client_id", "scopes", "domains", "groups_claim")
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            self.fields["provider_id"].disabled = True
        else:  # There is nothing to keep.
            help_text = str(self.fields["secret"].help_text)
            self.fields["secret"].help_text = help_text.partition(" Leave empty")[0]

    def clean_issuer(self) -> str:
        issuer: str = self.cleaned_data["issuer"]
        if placeholder := placeholder_in(issuer, PRESETS):
            raise ValidationError(f"Replace {placeholder} in this address.")
        return issuer

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if self.errors:
            return cleaned
        before = StoredProvider.objects.filter(pk=self.instance.pk).first()
        if before and before.issuer != cleaned["issuer"]:
            self._check_other_issuer(before)
        elif not (cleaned["secret"] or (before and before.is_readable)):
            self.add_error("secret", "Enter the client secret.")
        self._check_environment()
        if not self.errors:
            self._check_configuration()
        return cleaned

    def _check_other_issuer(self, before: StoredProvider) -> None:
        """Attack: the people of another issuer have the identifiers (`sub`) of those who are
        connected, and sign in as them; or its server gets the secret of the present one.
        """
        if SocialAccount.objects.filter(provider=before.provider_id).exists():
            text = "People are connected at this issuer. Add another provider for the new one."
            self.add_error("issuer", text)
        elif not self.cleaned_data["secret"]:
            self.add_error("secret", "The issuer changes: enter its client secret.")

    def _check_environment(self) -> None:
        """The database compares the other rows."""
        for provider in settings.OIDC_PROVIDERS:
            if provider.id == self.cleaned_data["provider_id"]:
                self.add_error("provider_id", "A provider of the environment has this ID.")
            if provider.issuer == self.cleaned_data["issuer"]:
                self.add_error("issuer", "A provider of the environment has this issuer.")

    def _check_configuration(self) -> None:
        candidate = StoredProvider(
            **{name: self.cleaned_data[name] for name in self.Meta.fields},
            encrypted_secret=self.instance.encrypted_secret,
        )
        if secret := self.cleaned_data["secret"]:
            candidate.client_secret = secret
        if problem := problem_of(candidate.configuration):
            field, text = problem
            self.add_error(FIELDS.get(field, field), f"The provider {text}.")

    def ask_for_secret_again(self) -> None:
        """The refused form comes back without it. Sent like that, it would keep the former one."""
        if self.cleaned_data.get("secret"):
            self.add_error("secret", AGAIN)

    def save_changes(self) -> StoredProvider:
        """Save a new provider, or the fields. Call it in the form's transaction."""
        row: StoredProvider = self.instance
        row.scopes, row.domains = (" ".join(words(text)) for text in (row.scopes, row.domains))
        columns = list(self.Meta.fields)
        if secret := self.cleaned_data["secret"]:
            row.client_secret = secret
            columns.append("encrypted_secret")
        if row._state.adding:
            row.save()
        else:
            row.save(update_fields=columns)
        return row
