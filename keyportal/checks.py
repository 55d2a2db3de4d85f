"""System checks: a bad configuration stops the start, with an id and a hint.

What can't even be read as a setting is refused in `settings.py` already.
"""

import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, register
from django.core.checks import Warning as Caution
from django.core.exceptions import ValidationError
from django.db import connection

from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.models import Upstream, validate_base_url
from keyportal.leaks.github import UnreadableKeys, public_keys

PREFIX = re.compile(r"[A-Za-z0-9_-]{0,31}[-_]")


@register(Tags.security)
def data_folder(**_: object) -> list[CheckMessage]:
    folder = Path(settings.DATA_DIR)
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return []
    what = "can't be written" if folder.is_dir() else "does not exist"
    return [
        Error(
            f"The data folder {folder} {what}.",
            hint="`make run` makes it. KEYPORTAL_DATA chooses another.",
            id="keyportal.E001",
        )
    ]


@register(Tags.security)
def key_prefixes(**_: object) -> list[CheckMessage]:
    bad = [prefix for prefix in settings.KEY_PREFIXES if not PREFIX.fullmatch(prefix)]
    if settings.KEY_PREFIXES and not bad:
        return []
    return [
        Error(
            f"KEYPORTAL_KEY_PREFIXES holds {', '.join(map(repr, bad)) or 'nothing'}.",
            hint="Each prefix is 1 to 32 letters, digits, - and _, and ends with - or _.",
            id="keyportal.E002",
        )
    ]


@register(Tags.security)
def management_key_prefixes(**_: object) -> list[CheckMessage]:
    """A prefix that both kinds had would leave nothing to tell them apart by."""
    prefixes = settings.MANAGEMENT_KEY_PREFIXES
    bad = [one for one in prefixes if not PREFIX.fullmatch(one) or one in settings.KEY_PREFIXES]
    if prefixes and not bad:
        return []
    return [
        Error(
            f"KEYPORTAL_MANAGEMENT_KEY_PREFIXES holds {', '.join(map(repr, bad)) or 'nothing'}.",
            hint="Each prefix is 1 to 32 letters, digits, - and _, ends with - or _, and is not "
            "in KEYPORTAL_KEY_PREFIXES.",
            id="keyportal.E006",
        )
    ]


@register(Tags.security)
def credential_keys(**_: object) -> list[CheckMessage]:
    if settings.CREDENTIAL_KEYS and all(map(_is_fernet_key, settings.CREDENTIAL_KEYS)):
        return []
    return [
        Error(
            # The keys themselves are never shown, not even the bad ones.
            "KEYPORTAL_CREDENTIAL_KEYS (or the file credential_keys) must hold Fernet keys "
            "and nothing else.",
            hint="A Fernet key is 32 bytes in URL-safe base64, 44 characters. "
            "Several are divided by spaces, the newest first.",
            id="keyportal.E003",
        )
    ]


@register(Tags.security)
def github_keys(**_: object) -> list[CheckMessage]:
    if not settings.GITHUB_KEYS_FILE:
        return []
    try:
        public_keys(Path(settings.GITHUB_KEYS_FILE))
    except UnreadableKeys as error:
        return [
            Error(
                f"KEYPORTAL_GITHUB_KEYS_FILE: {error}.",
                hint="Fetch it again; docs/leaked-keys.md tells how.",
                id="keyportal.E005",
            )
        ]
    return []


@register(Tags.database)
def stored_upstreams(*, databases: Sequence[str] | None = None, **_: object) -> list[CheckMessage]:
    """Rows that came round the admin and the commands; runs where the database is checked."""
    if "default" not in (databases or ()):
        return []
    if Upstream._meta.db_table not in connection.introspection.table_names():
        return []  # `migrate` checks the database too, before it has made the first table.
    found = Upstream.objects.order_by("name")
    return [message for upstream in found for message in _upstream(upstream)]


@register(Tags.security)
def public_address(**_: object) -> list[CheckMessage]:
    """HTTP beyond this machine: keys and passwords would cross the network in clear."""
    public = urlsplit(settings.PUBLIC_URL)
    if public.scheme != "http" or _is_loopback(public.hostname or ""):
        return []
    return [
        Caution(
            f"The public address {settings.PUBLIC_URL} is plain HTTP: "
            "keys and passwords cross the network unencrypted.",
            hint="Put a proxy with https in front and set KEYPORTAL_URL to its address.",
            id="keyportal.W001",
        )
    ]


@register(Tags.security)
def listening_everywhere(**_: object) -> list[CheckMessage]:
    if not settings.LISTENS_EVERYWHERE or settings.PUBLIC_URL:
        return []
    return [
        Caution(
            f"HOST={settings.HOST} listens on every address of this machine, and KEYPORTAL_URL "
            f"is not set: these names are answered to: {', '.join(settings.ALLOWED_HOSTS)}.",
            hint="Set KEYPORTAL_URL to the address that people use.",
            id="keyportal.W002",
        )
    ]


@register(Tags.security)
def debug_beyond_loopback(**_: object) -> list[CheckMessage]:
    if not settings.DEBUG or _is_loopback(settings.HOST):
        return []
    return [
        Caution(
            f"DEBUG is on while HOST={settings.HOST} lets other machines in: "
            "error pages show settings and code.",
            hint="Unset DEBUG.",
            id="keyportal.W003",
        )
    ]


@register(Tags.security)
def https_without_a_proxy(**_: object) -> list[CheckMessage]:
    """We speak plain HTTP; that a request came by https is for the proxy in front to tell."""
    if not settings.IS_HTTPS or settings.TRUSTED_PROXIES:
        return []
    return [
        Caution(
            f"The public address {settings.PUBLIC_URL} is https, and no proxy is trusted to say "
            "that a request came that way: each page would redirect to itself for ever.",
            hint="Set KEYPORTAL_TRUSTED_PROXIES to the address of the proxy in front.",
            id="keyportal.W005",
        )
    ]


def _upstream(upstream: Upstream) -> list[CheckMessage]:
    try:
        validate_base_url(upstream.base_url)
        _ = upstream.credential
    except ValidationError as error:
        return [
            Error(
                f"The upstream {upstream.name} has a bad base URL: {' '.join(error.messages)}",
                hint=f"Correct it: manage.py add_upstream {upstream.name} URL",
                id="keyportal.E004",
            )
        ]
    except CredentialUnreadable:
        return [
            Caution(
                f"The credential of the upstream {upstream.name} can't be decrypted: "
                "KEYPORTAL_CREDENTIAL_KEYS no longer holds the key that encrypted it.",
                hint="Add the old key again, or store the credential anew with add_upstream.",
                id="keyportal.W004",
            )
        ]
    return []


def _is_fernet_key(text: str) -> bool:
    try:
        Fernet(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
