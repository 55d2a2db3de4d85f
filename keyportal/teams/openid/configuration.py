"""What an identity provider needs, and those of KEYPORTAL_OIDC_PROVIDERS.

Imports no model: the settings read it.
"""

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from django.core.exceptions import ImproperlyConfigured

from keyportal.http.addresses import is_loopback

VARIABLE = "KEYPORTAL_OIDC_PROVIDERS"
ANY_DOMAIN = "*"
SCIM = "scim"  # In `Membership.granted_by`, so it is no id of a provider.
RoleName = Literal["viewer", "member", "admin", "owner"]
ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,39}\Z"
Text = Annotated[str, msgspec.Meta(min_length=1)]


class IdentityProvider(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What docs/identity-providers.md describes; the fields have the names in the JSON."""

    id: Annotated[str, msgspec.Meta(pattern=ID_PATTERN)]
    """Part of the callback address. Stored with each connected account, so it never changes."""
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
    issuer: Text
    client_id: Text
    client_secret: str = ""
    client_secret_file: str = ""
    scopes: tuple[Text, ...] = ("openid", "email", "profile")
    domains: tuple[Text, ...] = ()
    create_accounts: bool = False
    trust_addresses: bool = False
    addresses_verified: bool = False
    groups_claim: Text = "groups"
    groups: dict[str, dict[str, RoleName]] = {}
    """The role in a team (by slug) that each group gives."""

    def __repr__(self) -> str:
        """Without the secret, which would be in tracebacks and on pages."""
        return f"IdentityProvider({self.id!r})"

    def accepts(self, address: str) -> bool:
        domain = address.rpartition("@")[2].lower()
        domains = {accepted.lower() for accepted in self.domains}
        return not domains or ANY_DOMAIN in domains or domain in domains


def parse(text: str) -> tuple[IdentityProvider, ...]:
    """`text` is a JSON array, or the path of a file that contains one.

    Raises `ImproperlyConfigured` with one sentence, which never contains a secret.
    """
    if not text:
        return ()
    source = text if text.lstrip().startswith("[") else _read(text)
    try:
        providers = msgspec.json.decode(source, type=tuple[IdentityProvider, ...])
    except msgspec.DecodeError as error:
        raise ImproperlyConfigured(f"{VARIABLE} can't be read: {error}.") from None
    for name in ("id", "issuer"):
        values = [getattr(provider, name) for provider in providers]
        if len(values) > len(set(values)):
            raise ImproperlyConfigured(f"{VARIABLE}: two providers have the same {name}.")
    return tuple(map(_checked, providers))


def _checked(provider: IdentityProvider) -> IdentityProvider:
    """With the secret of its file. Raises `ImproperlyConfigured`."""
    if provider.client_secret_file:
        secret = _read(provider.client_secret_file).strip()
        provider = msgspec.structs.replace(provider, client_secret=secret)
    if problem := problem_of(provider):
        raise ImproperlyConfigured(f"{VARIABLE}: the provider {provider.id} {problem[1]}.")
    return provider


def parse_groups(variable: str, text: str) -> dict[str, dict[str, RoleName]]:
    """The roles that groups give, from a JSON object. Raises `ImproperlyConfigured`."""
    try:
        return msgspec.json.decode(text or "{}", type=dict[str, dict[str, RoleName]])
    except msgspec.DecodeError as error:
        raise ImproperlyConfigured(f"{variable} can't be read: {error}.") from None


def problem_of(provider: IdentityProvider) -> tuple[str, str] | None:
    """The field, and what the provider needs there."""
    if provider.id == SCIM:
        return "id", "needs another id"
    if not is_secure(provider.issuer):
        return "issuer", "needs an issuer that begins with https://, without a query"
    if not provider.client_secret:
        return (
            "client_secret",
            "needs a client_secret or a client_secret_file that is not empty",
        )
    if "openid" not in provider.scopes:
        return "scopes", "needs the scope openid"
    # Attack: at Google, everybody in the world has an account.
    if (provider.create_accounts or provider.trust_addresses) and not provider.domains:
        return (
            "domains",
            "needs domains, such as example.com, to make accounts or to be trusted for addresses",
        )
    return None


def is_secure(url: str) -> bool:
    """Whether nobody on the network can read or forge what is sent to `url`.

    Attack: a forged list of signing keys. Plain HTTP is accepted on this machine only.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.query or parts.fragment:
        return False
    is_here = host == "localhost" or is_loopback(host)
    return parts.scheme == "https" or (parts.scheme == "http" and is_here)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError):
        # The text is not repeated: it may be JSON with a secret in it.
        raise ImproperlyConfigured(
            f"{VARIABLE}: a file that it names can't be read. "
            "Its value is a JSON array, or the path of a file with one."
        ) from None
