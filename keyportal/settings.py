"""Every setting, read from the environment in one place, with defaults that are safe to serve.

The README's table lists each variable; a test fails when one is missing from it.
"""

import ipaddress
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = Path(env.str("KEYPORTAL_DATA", default=str(BASE_DIR / "var"))).absolute()
DEBUG = env.bool("DEBUG", default=False)
LOG_LEVEL = env.str("KEYPORTAL_LOG_LEVEL", default="INFO").upper()


def _kept_secret(variable: str, file_name: str) -> str:
    """From the environment, else from the data folder, where the first `make run` put it."""
    file = DATA_DIR / file_name
    if value := str(env.str(variable, default="")):
        return value
    try:
        value = file.read_text().strip()
    except FileNotFoundError:
        value = ""
    except OSError as error:
        raise ImproperlyConfigured(f"{file} can't be read: {error.strerror}.") from error
    if not value and not DEBUG:
        raise ImproperlyConfigured(
            f"{variable} is not set and {file} does not exist. "
            f"Set the variable, or let `make run` make the file."
        )
    return value


SECRET_KEY = _kept_secret("SECRET_KEY", "secret_key") or get_random_secret_key()
# Fernet keys, the newest first; they encrypt the upstreams' credentials and nothing else.
CREDENTIAL_KEYS = tuple(_kept_secret("KEYPORTAL_CREDENTIAL_KEYS", "credential_keys").split())

# Where we are, seen from outside.

HOST = env.str("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)
LISTENS_EVERYWHERE = HOST in {"0.0.0.0", "::", ""}  # noqa: S104 - compared, not bound


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _own_names() -> set[str]:
    """The names and addresses of this machine, for a start that listens on all of them."""
    names = {socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1", "::1"}
    for name in (socket.gethostname(), socket.getfqdn()):
        try:
            names |= {
                str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(name, None)
            }
        except OSError:
            continue  # A host name that nobody resolves is common in containers.
    return names | _interface_addresses()


def _interface_addresses() -> set[str]:
    """IPv4 addresses of the network interfaces, as Linux tells them (SIOCGIFADDR)."""
    try:
        from fcntl import ioctl
    except ImportError:
        return set()
    found = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # An interface without an IPv4 address.
            found.add(socket.inet_ntoa(answer[20:24]))
    return found


_given_url = env.str("KEYPORTAL_URL", default="").rstrip("/")
# Empty only when we listen on every address and nobody said which one is ours: then links
# and examples follow the (allow-listed) host of the request.
PUBLIC_URL = _given_url or ("" if LISTENS_EVERYWHERE else f"http://{_authority(HOST)}:{PORT}")
_public = urlsplit(PUBLIC_URL)
if PUBLIC_URL and (_public.scheme not in {"http", "https"} or not _public.hostname or _public.path):
    raise ImproperlyConfigured(
        f"KEYPORTAL_URL must look like https://keys.example.com, without a path, not {PUBLIC_URL}."
    )
IS_HTTPS = _public.scheme == "https"
_LOOPBACK_NAMES = {"localhost", "127.0.0.1", "::1"}
_hosts = {_public.hostname} if _public.hostname else _own_names()
if _hosts & _LOOPBACK_NAMES:
    _hosts |= _LOOPBACK_NAMES
ALLOWED_HOSTS = sorted(_authority(host) for host in _hosts if host)
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL else []


def _networks(variable: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in env.list(variable, default=[]))
    except ValueError as error:
        raise ImproperlyConfigured(f"{variable}: {error}.") from error


# Only a request that comes straight from one of these may say, by X-Forwarded-*, for whom.
TRUSTED_PROXIES = _networks("KEYPORTAL_TRUSTED_PROXIES")

# What we are made of.

INSTALLED_APPS = [
    "keyportal.teams",
    "keyportal.activity",
    "keyportal.catalog",
    "keyportal.keys",
    "keyportal.gateway",
    "allauth",
    "allauth.account",
    "csp",
    "django_htmx",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "keyportal.static.AsyncWhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]
ROOT_URLCONF = "keyportal.urls"
ASGI_APPLICATION = "keyportal.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "keyportal.teams.access.frame",
            ],
        },
    },
]

# The database: one, under three names, so that a portal page, a verdict and the meter's flush
# never wait for each other's connection.

_SCHEMES = ("sqlite", "postgres", "postgresql")
DATABASE_URL = env.str("DATABASE_URL", default=f"sqlite:///{DATA_DIR / 'keyportal.sqlite3'}")
if DATABASE_URL.partition(":")[0] not in _SCHEMES:
    raise ImproperlyConfigured(
        f"DATABASE_URL must begin with sqlite:/// or postgresql://, "
        f"not {DATABASE_URL.partition(':')[0]}:"
    )
_database: dict[str, Any] = env.db_url_config(DATABASE_URL)
IS_POSTGRESQL = _database["ENGINE"].endswith("postgresql")


def _postgresql(*, durable: bool, options: Mapping[str, object]) -> dict[str, Any]:
    """A deletion must survive a power cut; a counter may lose its last second."""
    commit = "on" if durable else "off"
    settings = f"-c statement_timeout=%s -c lock_timeout=%s -c synchronous_commit={commit}"
    return _database | {
        "OPTIONS": {
            "connect_timeout": 2,
            "options": settings % (("60s", "10s") if durable else ("2s", "2s")),
            **_database.get("OPTIONS", {}),
            **options,
        }
    }


def _sqlite(*, durable: bool, **settings: object) -> dict[str, Any]:
    pragmas = f"PRAGMA journal_mode=WAL; PRAGMA synchronous={'FULL' if durable else 'NORMAL'};"
    return (
        _database
        | {
            "OPTIONS": {
                "init_command": pragmas,
                # A transaction that may write takes its lock at once: a read that is upgraded
                # half-way fails with "database is locked" however long it would wait.
                "transaction_mode": "IMMEDIATE",
                "timeout": 20 if durable else 2,
            }
        }
        | settings
    )


# A connection of its own, opened in its own thread after the fork and kept open.
_KEPT = {"CONN_MAX_AGE": None, "TEST": {"MIRROR": "default"}}
# Django turns server-side binding and preparation off for the sake of poolers between us and the
# server; the statements of these two are few and fixed, so preparing them pays.
_PREPARED = {"server_side_binding": True, "prepare_threshold": 1, "tcp_user_timeout": 2000}

if IS_POSTGRESQL:
    DATABASES = {
        "default": _postgresql(durable=True, options={"pool": {"min_size": 0, "max_size": 8}}),
        "admission": _postgresql(durable=False, options=_PREPARED) | _KEPT,
        "meter": _postgresql(durable=False, options=_PREPARED) | _KEPT,
    }
else:
    DATABASES = {
        # Under ASGI each request has a thread of its own; a kept connection would be a leaked one.
        "default": _sqlite(durable=True, CONN_MAX_AGE=0),
        "admission": _sqlite(durable=False) | _KEPT,
        "meter": _sqlite(durable=False) | _KEPT,
    }
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Rate limits must count the same in every worker; local memory is per worker.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "keyportal_cache",
        # Beyond this, entries are dropped before their time; with the default of 300, a flood
        # of made-up names would wash the counts of real ones away.
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }
}

# People.

AUTH_USER_MODEL = "teams.User"
AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "keyportal.teams.adapter.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_EMAIL_SUBJECT_PREFIX = "[Keyportal] "
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False  # Or anyone could have us write to strangers.
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    "login_failed": "10/m/ip,5/5m/key",
    "reset_password": "20/m/ip,5/m/key",
}
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_HTTPS
SESSION_COOKIE_NAME = "keyportal_session"
CSRF_COOKIE_NAME = "keyportal_csrf"
CSRF_FAILURE_VIEW = "keyportal.teams.views.csrf_failure"

# What a browser may do with our pages.

SECURE_SSL_REDIRECT = IS_HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if IS_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = IS_HTTPS
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "img-src": [SELF, "data:"],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}

# Pages and files.

LANGUAGE_CODE = "en"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "/static/"
WHITENOISE_ALLOW_ALL_ORIGINS = False
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
EMAIL_CONFIG = env.email_url("EMAIL_URL", default="consolemail://")
vars().update(EMAIL_CONFIG)
EMAIL_TIMEOUT = 30
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="keyportal@localhost")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        # The last line of defence: whatever is logged, a key in it is cut to its public part.
        "redacting": {
            "()": "keyportal.keys.secret.RedactingFormatter",
            "format": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        }
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "redacting"}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "propagate": True},
        "django.server": {"handlers": [], "propagate": True},
    },
}

# Keys.

# The first makes new keys, all are accepted.
KEY_PREFIXES = tuple(env.list("KEYPORTAL_KEY_PREFIXES", default=["sk-kp-"]))
KEY_LIMIT: int = env.int("KEYPORTAL_KEY_LIMIT", default=20)

# The gateway.

WEB_CONCURRENCY = env.int("WEB_CONCURRENCY", default=1)
MAX_BODY_BYTES = env.int("KEYPORTAL_MAX_BODY_BYTES", default=20 * 1024 * 1024)
MAX_CALLS = env.int("KEYPORTAL_MAX_CALLS", default=10_000)
GRACEFUL_TIMEOUT = env.int("KEYPORTAL_GRACEFUL_TIMEOUT", default=60)
