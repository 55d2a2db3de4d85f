"""What is usual at a kind of identity provider. A preset only fills in the form of a new one."""

from typing import Any, NamedTuple


class Preset(NamedTuple):
    name: str
    label: str
    address: str
    hint: str
    scopes: str = "openid email profile"
    addresses_verified: bool = False
    placeholder: str = ""
    """The part of `address` that an operator must replace."""

    @property
    def initial(self) -> dict[str, Any]:
        """The values of the form's fields."""
        return {
            "provider_id": self.name if self.address else "",
            "name": self.label if self.address else "",
            "issuer": self.address,
            "scopes": self.scopes,
            "addresses_verified": self.addresses_verified,
        }


PRESETS = (
    Preset(
        "google",
        "Google",
        "https://accounts.google.com",
        "Google Cloud console, Credentials, OAuth client ID, Web application. Everybody has a "
        "Google account: the domains are what keeps them out.",
    ),
    Preset(
        "entra",
        "Microsoft Entra",
        "https://login.microsoftonline.com/DIRECTORY-ID/v2.0",
        "App registrations, accounts in this directory only, with the optional claim email in the "
        "ID token. Replace DIRECTORY-ID. Entra doesn't say whether an address is verified. Groups "
        "are named by their object ids.",
        addresses_verified=True,
        placeholder="DIRECTORY-ID",
    ),
    Preset(
        "okta",
        "Okta",
        "https://example.okta.com",
        "Applications, OIDC, Web Application, assigned to those who may sign in. Replace example. "
        "For groups, add a groups claim filter at Okta, and the scope groups here.",
        placeholder="example",
    ),
    Preset(
        "keycloak",
        "Keycloak",
        "https://sso.example.com/realms/REALM",
        "A client with client authentication on and the standard flow. Replace the host and REALM. "
        "For groups, add the mapper Group Membership with the claim groups.",
        placeholder="sso.example.com and REALM",
    ),
    Preset(
        "gitlab",
        "GitLab",
        "https://gitlab.com",
        "Admin area, Applications, confidential, with the scopes openid, profile and email. On "
        "gitlab.com everybody has an account: the domains are what keeps them out. Groups are "
        "named by their full paths.",
    ),
    Preset("other", "Other", "", "Any provider that speaks OpenID Connect."),
)
