"""System checks: an invalid configuration stops the start, with an id and a hint.

`settings.py` already refuses values that can't be parsed.
"""

import difflib
import ipaddress
import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from cryptography.fernet import Fernet
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info, Tags, register
from django.core.checks import Warning as CheckWarning
from django.core.exceptions import ValidationError
from django.db import connection

from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.models import Upstream, validate_base_url
from keyportal.leaks.github import UnreadableKeys, public_keys

PROXY_VARIABLES = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
)
# Kubernetes sets these in a pod for a Service whose name begins with keyportal.
KUBERNETES_VARIABLE = re.compile(r"KEYPORTAL(_[A-Z0-9_]+)?_(SERVICE_(HOST|PORT\w*)|PORT(_\d\w+)?)")
PREFIX = re.compile(r"[A-Za-z0-9_-]{0,31}[-_]")


@register(Tags.security)
def data_folder(**_: object) -> list[CheckMessage]:
    folder = Path(settings.DATA_DIR)
    if folder.is_dir() and os.access(folder, os.W_OK | os.X_OK):
        return []
    problem = "can't be written" if folder.is_dir() else "does not exist"
    return [
        Error(
            f"The data folder {folder} {problem}.",
            hint="`make run` creates it. KEYPORTAL_DATA sets another one.",
            id="keyportal.E001",
        )
    ]


@register(Tags.security)
def key_prefixes(**_: object) -> list[CheckMessage]:
    invalid = [prefix for prefix in settings.KEY_PREFIXES if not PREFIX.fullmatch(prefix)]
    if settings.KEY_PREFIXES and not invalid:
        return []
    return [
        Error(
            f"KEYPORTAL_KEY_PREFIXES contains {', '.join(map(repr, invalid)) or 'nothing'}.",
            hint="Each prefix is 1 to 32 letters, digits, - and _, and ends with - or _.",
            id="keyportal.E002",
        )
    ]


@register(Tags.security)
def management_key_prefixes(**_: object) -> list[CheckMessage]:
    """API keys and management keys must have different prefixes, which tell them apart."""
    prefixes = settings.MANAGEMENT_KEY_PREFIXES
    invalid = [
        prefix
        for prefix in prefixes
        if not PREFIX.fullmatch(prefix) or prefix in settings.KEY_PREFIXES
    ]
    if prefixes and not invalid:
        return []
    return [
        Error(
            "KEYPORTAL_MANAGEMENT_KEY_PREFIXES contains "
            f"{', '.join(map(repr, invalid)) or 'nothing'}.",
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
            # The message contains none of them, not even the invalid ones.
            "KEYPORTAL_CREDENTIAL_KEYS (or the file credential_keys) must contain Fernet keys "
            "and nothing else.",
            hint="A Fernet key is 32 bytes in URL-safe base64, 44 characters. "
            "Separate several by spaces, the newest first.",
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
                hint="Download it again; docs/leaked-keys.md describes how.",
                id="keyportal.E005",
            )
        ]
    return []


@register(Tags.security)
def unknown_variables(**_: object) -> list[CheckMessage]:
    """Warn of misspelt variables. A warning, because other programs may use the same beginning."""
    names = sorted(name for name in os.environ if name.startswith("KEYPORTAL_"))
    return [
        CheckWarning(
            f"{name} is not a setting.",
            hint=_suggestion(name),
            id="keyportal.W006",
        )
        for name in names
        if name not in settings.VARIABLES and not _is_from_kubernetes(name)
    ]


def _is_from_kubernetes(name: str) -> bool:
    is_in_pod = "KUBERNETES_SERVICE_HOST" in os.environ
    return is_in_pod and KUBERNETES_VARIABLE.fullmatch(name) is not None


def _suggestion(name: str) -> str:
    similar = difflib.get_close_matches(name, settings.VARIABLES, n=1)
    return f"Did you mean {similar[0]}?" if similar else "docs/configuration.md lists all settings."


@register(Tags.database)
def stored_upstreams(*, databases: Sequence[str] | None = None, **_: object) -> list[CheckMessage]:
    """Check rows that neither the admin nor a command validated, when the database is checked."""
    if "default" not in (databases or ()):
        return []
    if Upstream._meta.db_table not in connection.introspection.table_names():
        return []  # `migrate` runs this check before it has created the tables.
    # Attack: an admin of a team stores what a later version refuses, and it no longer starts. Their
    # servers are checked when they are used.
    upstreams = Upstream.objects.filter(team=None).order_by("name")
    return [message for upstream in upstreams for message in _check_upstream(upstream)]


@register(Tags.database)
def pooled_time_limit(*, databases: Sequence[str] | None = None, **_: object) -> list[CheckMessage]:
    """Behind a pooler, time limits are set for each transaction; a single query is in none."""
    if not (settings.DB_POOLER and "default" in (databases or ())):
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('statement_timeout'), current_user")
        limit, user = cursor.fetchone()
    if limit != "0":
        return []
    return [
        CheckWarning(
            "The queries of pages have no time limit in the database, because a pooler is used.",
            hint=f"ALTER ROLE {user} SET statement_timeout = '60s'",
            id="keyportal.W007",
        )
    ]


@register(Tags.security)
def public_address(**_: object) -> list[CheckMessage]:
    """Warn if the public address is plain HTTP and not on this machine."""
    public = urlsplit(settings.PUBLIC_URL)
    if public.scheme != "http" or _is_loopback(public.hostname or ""):
        return []
    return [
        CheckWarning(
            f"The public address {settings.PUBLIC_URL} is plain HTTP: "
            "keys and passwords cross the network unencrypted.",
            hint="Use a proxy with https in front, and set KEYPORTAL_URL to its address.",
            id="keyportal.W001",
        )
    ]


@register(Tags.security)
def listening_everywhere(**_: object) -> list[CheckMessage]:
    if not settings.LISTENS_EVERYWHERE or settings.PUBLIC_URL:
        return []
    return [
        CheckWarning(
            f"HOST={settings.HOST} listens on every address of this machine, and KEYPORTAL_URL "
            "is not set. Requests to these names are answered: "
            f"{', '.join(settings.ALLOWED_HOSTS)}. No link is mailed, such as those to reset a "
            "password.",
            hint="Set KEYPORTAL_URL to the address that people use.",
            id="keyportal.W002",
        )
    ]


@register(Tags.security)
def debug_beyond_loopback(**_: object) -> list[CheckMessage]:
    if not settings.DEBUG or _is_loopback(settings.HOST):
        return []
    return [
        CheckWarning(
            f"DEBUG is on while HOST={settings.HOST} allows other machines: "
            "error pages show settings and code.",
            hint="Unset DEBUG.",
            id="keyportal.W003",
        )
    ]


@register(Tags.security)
def https_without_a_proxy(**_: object) -> list[CheckMessage]:
    """The server itself has no https. Only a trusted proxy can say that a request came by https."""
    if not settings.IS_HTTPS or settings.TRUSTED_PROXIES:
        return []
    return [
        CheckWarning(
            f"The public address {settings.PUBLIC_URL} is https, but no proxy is trusted to say "
            "that a request came by https: each page would redirect to itself for ever.",
            hint="Set KEYPORTAL_TRUSTED_PROXIES to the address of the proxy in front.",
            id="keyportal.W005",
        )
    ]


@register(Tags.security)
def environment_proxies(**_: object) -> list[CheckMessage]:
    """Say that proxies are not used: a proxy could read prompts and credentials."""
    found = [name for name in PROXY_VARIABLES if os.environ.get(name)]
    if not found:
        return []
    return [
        Info(
            f"{', '.join(found)} is not obeyed: model servers are called directly.",
            hint="See docs/model-servers.md, Certificates and proxies.",
            id="keyportal.I001",
        )
    ]


def _check_upstream(upstream: Upstream) -> list[CheckMessage]:
    try:
        validate_base_url(upstream.base_url)
        _ = upstream.server_headers
    except ValidationError as error:
        return [
            Error(
                f"The upstream {upstream.name} has invalid settings: {' '.join(error.messages)}",
                hint=f"Correct it: manage.py add_upstream {upstream.name} URL",
                id="keyportal.E004",
            )
        ]
    except CredentialUnreadable:
        return [
            CheckWarning(
                f"The credential or headers of the upstream {upstream.name} can't be decrypted: "
                "KEYPORTAL_CREDENTIAL_KEYS no longer contains the key that encrypted it.",
                hint="Add the old key again, or store them again with add_upstream.",
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
