"""The settings in force, for operators to read. No secret is among them.

Attack: a new setting holds a secret, and is displayed because nobody thought of this page. So a
text is displayed only if it is listed here; of any other, the page says only whether it is set.
"""

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from django.conf import settings

from keyportal import data_folder

HIDDEN = "Set, not displayed"


class Setting(NamedTuple):
    variable: str
    value: str
    is_hidden: bool
    is_set: bool
    """Whether the environment has it; otherwise its value is the default."""


def settings_in_force() -> Iterator[Setting]:
    """By the names of their variables."""
    for variable in sorted(settings.VARIABLES):
        is_set = bool(os.environ.get(variable))
        value = _value(variable)
        if value is None:
            yield Setting(variable, HIDDEN if _has_value(variable) else "", True, is_set)
        else:
            yield Setting(variable, value, False, is_set)


def _has_value(variable: str) -> bool:
    is_generated = variable in data_folder.SECRETS
    return bool(os.environ.get(variable)) or is_generated


def _value(variable: str) -> str | None:
    """None if it may be a secret."""
    if variable in _TEXTS:
        return _TEXTS[variable]()
    value = getattr(settings, variable.removeprefix("KEYPORTAL_"), None)
    if isinstance(value, bool):
        return "on" if value else "off"
    # A number or a set of networks is no secret.
    return str(value) if isinstance(value, int) else None


def _named(name: str) -> Callable[[], str]:
    def read() -> str:
        value = getattr(settings, name)
        return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)

    return read


def _database() -> str:
    """Without the password, and without the parameters, which may hold one."""
    database = settings.DATABASES["default"]
    if not settings.IS_POSTGRESQL:
        return f"sqlite:///{database['NAME']}"
    user = f"{database['USER']}@" if database.get("USER") else ""
    port = f":{database['PORT']}" if database.get("PORT") else ""
    return f"postgresql://{user}{database.get('HOST', '')}{port}/{database['NAME']}"


def _access_log() -> str:
    """As it is written in the environment: the setting is the part of the requests."""
    return {0.0: "off", 1.0: "on"}.get(settings.ACCESS_LOG, str(settings.ACCESS_LOG))


def _mail() -> str:
    backend = str(settings.OUTBOX_EMAIL_BACKEND).split(".")[-2]
    if backend != "smtp":
        return backend
    return f"smtp://{settings.EMAIL_HOST}:{settings.EMAIL_PORT}"


_TEXTS: dict[str, Callable[[], str]] = {
    "DATABASE_URL": _database,
    "DEFAULT_FROM_EMAIL": _named("DEFAULT_FROM_EMAIL"),
    "EMAIL_URL": _mail,
    "HOST": _named("HOST"),
    "KEYPORTAL_ACCESS_LOG": _access_log,
    "KEYPORTAL_CORS_ORIGINS": _named("CORS_ORIGINS"),
    "KEYPORTAL_DATA": _named("DATA_DIR"),
    "KEYPORTAL_GITHUB_KEYS_FILE": _named("GITHUB_KEYS_FILE"),
    "KEYPORTAL_KEY_PREFIXES": _named("KEY_PREFIXES"),
    "KEYPORTAL_LOG_FORMAT": _named("LOG_FORMAT"),
    "KEYPORTAL_LOG_LEVEL": _named("LOG_LEVEL"),
    "KEYPORTAL_TEAM_CREATION": _named("TEAM_CREATION"),
    "KEYPORTAL_TEAM_SERVERS": lambda: str(settings.TEAM_SERVERS),
    "KEYPORTAL_MANAGEMENT_KEY_PREFIXES": _named("MANAGEMENT_KEY_PREFIXES"),
    "KEYPORTAL_METRICS_HOST": _named("METRICS_HOST"),
    "KEYPORTAL_PROXY_HEADER": _named("PROXY_HEADER"),
    "KEYPORTAL_TRUSTED_PROXIES": _named("TRUSTED_PROXIES"),
    "KEYPORTAL_URL": _named("PUBLIC_URL"),
    # Their settings are in seconds.
    "KEYPORTAL_SESSION_IDLE_HOURS": lambda: str(settings.SESSION_COOKIE_AGE // 3600),
    "KEYPORTAL_SESSION_DAYS": lambda: str(settings.SESSION_MAX_AGE // 86_400),
}
