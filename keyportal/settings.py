"""All settings. They are read from the environment, with defaults that are safe in production.

docs/configuration.md lists each variable; a test fails if one is missing there.
"""

import ipaddress
import re
import socket
import struct
from email.errors import HeaderParseError
from email.headerregistry import Address
from email.utils import parseaddr
from urllib.parse import SplitResult, quote, urlsplit

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from keyportal import data_folder
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.database.configuration import databases, read_url
from keyportal.teams.openid.configuration import parse as parse_oidc_providers
from keyportal.teams.openid.configuration import parse_groups

env = environ.Env()
# The names of all our variables, so that a check finds misspelt ones.
VARIABLES = {"KEYPORTAL_DATA"}


def _text(variable: str, default: str) -> str:
    """An empty variable counts as unset: `make run PORT=` and compose files set empty ones."""
    VARIABLES.add(variable)
    return str(env.str(variable, default=default)) or default


def _number(variable: str, default: int, *, min_value: int, max_value: int = 2**31 - 1) -> int:
    text = _text(variable, str(default))
    # Python refuses to read thousands of digits.
    is_number = text.isascii() and text.isdigit() and len(text) < 20
    if not (is_number and min_value <= int(text) <= max_value):
        raise ImproperlyConfigured(
            f"{variable} must be a whole number from {min_value} to {max_value}, not {text!r}."
        )
    return int(text)


def _words(text: str) -> list[str]:
    """Split at spaces, commas or lines. `split_words` needs models, so it can't be used here."""
    return text.replace(",", " ").split()


BASE_DIR = data_folder.BASE_DIR
DATA_DIR = data_folder.folder()
LOG_LEVEL = _text("KEYPORTAL_LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise ImproperlyConfigured(
        f"KEYPORTAL_LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL, not {LOG_LEVEL}."
    )
TEAM_CREATION = _text("KEYPORTAL_TEAM_CREATION", "operators").lower()
if TEAM_CREATION not in {"anyone", "operators"}:
    raise ImproperlyConfigured(
        f"KEYPORTAL_TEAM_CREATION must be anyone or operators, not {TEAM_CREATION!r}."
    )
try:
    TEAM_SERVERS = AllowedServers.parse(_words(_text("KEYPORTAL_TEAM_SERVERS", "off")))
except ValueError as error:
    raise ImproperlyConfigured(
        f"KEYPORTAL_TEAM_SERVERS must be off, public, or a list of networks and names of hosts: "
        f"{error}."
    ) from error
LOG_FORMAT = _text("KEYPORTAL_LOG_FORMAT", "console").lower()
if LOG_FORMAT not in {"console", "json"}:
    raise ImproperlyConfigured(f"KEYPORTAL_LOG_FORMAT must be console or json, not {LOG_FORMAT!r}.")


_SWITCH = dict.fromkeys(("on", "true", "yes", "1"), True)
_SWITCH |= dict.fromkeys(("off", "false", "no", "0"), False)


def _is_on(variable: str, default: str) -> bool:
    """Other texts are refused, so that a typing error is not taken for on or off."""
    text = _text(variable, default).lower()
    if text not in _SWITCH:
        raise ImproperlyConfigured(f"{variable} must be on or off, not {text!r}.")
    return _SWITCH[text]


DEBUG = _is_on("DEBUG", "off")


def _share(variable: str) -> float:
    """`on`, `off`, or the part of all, such as 0.01."""
    text = _text(variable, "off").lower()
    try:
        share = float(_SWITCH.get(text, text))
    except ValueError:
        share = -1
    if not 0 <= share <= 1:
        raise ImproperlyConfigured(
            f"{variable} must be on, off, or a number from 0 to 1 such as 0.01, not {text!r}."
        )
    return share


# The part of the served requests to the gateway that get a line in the log.
ACCESS_LOG = _share("KEYPORTAL_ACCESS_LOG")


def _secret(variable: str) -> str:
    """Return it from the environment, else from the data folder, where a start wrote it."""
    VARIABLES.add(variable)
    value = data_folder.read_secret(variable)
    if not value and not DEBUG:
        raise ImproperlyConfigured(
            f"{variable} is not set, and {DATA_DIR / data_folder.SECRETS[variable][0]} is missing. "
            f"A start of the server makes the file. For a command, set KEYPORTAL_DATA to the "
            f"data folder of the server, or {variable} as the server has it."
        )
    return value


SECRET_KEY = _secret("SECRET_KEY") or get_random_secret_key()
# Attack: a short one is guessed from a signed link, and then any session or link can be forged.
if len(SECRET_KEY) < 32:
    raise ImproperlyConfigured(
        "SECRET_KEY must have at least 32 characters. Unset it, and a start makes a file with one, "
        "or take the output of `openssl rand -hex 32`."
    )
# Fernet keys, the newest first. They encrypt secrets in the database.
CREDENTIAL_KEYS = tuple(_words(_secret("KEYPORTAL_CREDENTIAL_KEYS")))

# Addresses.

HOST = _text("HOST", "127.0.0.1")
PORT = _number("PORT", 8000, min_value=1, max_value=65535)
LISTENS_EVERYWHERE = HOST in {"0.0.0.0", "::"}  # noqa: S104 - only compared


def _authority(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _machine_names() -> set[str]:
    """Return the names and addresses of this machine, for a server that listens on all of them."""
    names = {socket.gethostname(), socket.getfqdn(), "localhost", "127.0.0.1", "::1"}
    for name in (socket.gethostname(), socket.getfqdn()):
        try:
            names |= {str(info[4][0]).partition("%")[0] for info in socket.getaddrinfo(name, None)}
        except OSError:
            continue  # In containers, the host name often can't be resolved.
    return names | _interface_addresses()


def _interface_addresses() -> set[str]:
    """Return the IPv4 addresses of the network interfaces on Linux (SIOCGIFADDR)."""
    try:
        from fcntl import ioctl
    except ImportError:
        return set()
    addresses = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = ioctl(probe.fileno(), 0x8915, struct.pack("256s", name.encode()[:15]))
            except OSError:
                continue  # An interface without an IPv4 address.
            addresses.add(socket.inet_ntoa(answer[20:24]))
    return addresses


# The beginnings of Keyportal's own paths. If `/models` were the path of KEYPORTAL_URL, a request
# for `/models/...` could mean two things, because a proxy may have removed the path before.
OWN_NAMES = frozenset(
    _words(
        "accounts admin api audio auth chat completions device embeddings healthz images "
        "invitations leaks messages models moderations oauth openai operators profile readyz "
        "rerank responses static teams v1 v2"
    )
)


def _public_parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        is_valid = False
    if url and (
        not is_valid
        or set(parts.netloc) & set("@ \\")
        or set(url) & set("?#")
        or not re.fullmatch(r"(/[\w~-][\w.~-]*)*", parts.path, re.ASCII)
    ):
        raise ImproperlyConfigured(
            "KEYPORTAL_URL must look like https://keys.example.com "
            f"or https://tools.example.com/keyportal, not {url}"
        )
    if parts.path[1:].partition("/")[0] in OWN_NAMES:
        raise ImproperlyConfigured(
            f"KEYPORTAL_URL can't have the path {parts.path}, because Keyportal has an address of "
            "this name itself. Choose another one, such as /keyportal."
        )
    return parts


# Empty only if the server listens on all addresses and KEYPORTAL_URL is not set. Then links and
# examples use the host of the request, which must be in ALLOWED_HOSTS.
_own_url = "" if LISTENS_EVERYWHERE else f"http://{_authority(HOST)}:{PORT}"
PUBLIC_URL = _text("KEYPORTAL_URL", "").rstrip("/") or _own_url
_public = _public_parts(PUBLIC_URL)
IS_HTTPS = _public.scheme == "https"
BASE_PATH = _public.path
"""The path of the public address, such as `/keyportal`; empty if it has none."""
LOOPBACK_ADDRESSES = frozenset({"127.0.0.1", "::1"})
_LOOPBACK_NAMES = {"localhost", *LOOPBACK_ADDRESSES}
_hosts = {_public.hostname} if _public.hostname else _machine_names()
if _hosts & _LOOPBACK_NAMES:
    _hosts |= _LOOPBACK_NAMES
ALLOWED_HOSTS = sorted(_authority(host) for host in _hosts if host)
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL.removesuffix(BASE_PATH)] if PUBLIC_URL else []


def _networks(variable: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text) for text in _words(_text(variable, "")))
    except ValueError as error:
        raise ImproperlyConfigured(f"{variable}: {error}.") from error


# X-Forwarded-* or Forwarded is read only from these.
TRUSTED_PROXIES = _networks("KEYPORTAL_TRUSTED_PROXIES")
PROXY_HEADER = _text("KEYPORTAL_PROXY_HEADER", "x-forwarded-for").lower()
if PROXY_HEADER not in {"x-forwarded-for", "forwarded"}:
    raise ImproperlyConfigured(
        f"KEYPORTAL_PROXY_HEADER must be x-forwarded-for or forwarded, not {PROXY_HEADER!r}."
    )

# Applications.

INSTALLED_APPS = [
    "keyportal",
    "keyportal.teams",
    "keyportal.audit",
    "keyportal.usage",
    "keyportal.catalog",
    "keyportal.keys",
    "keyportal.notifications",
    "keyportal.people",
    "keyportal.leaks",
    "keyportal.gateway",
    "keyportal.api",
    "keyportal.scheduler",
    "keyportal.server",
    "keyportal.operators",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.mfa",
    "csp",
    "django_htmx",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "keyportal.http.static_files.AsyncWhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "keyportal.audit.middleware.AuditSourceMiddleware",
    "keyportal.teams.middleware.PageLoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "keyportal.teams.middleware.RejectNulMiddleware",
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
                "keyportal.teams.navigation.navigation",
                "keyportal.leaks.context_processors.banner",
            ],
        },
    },
]

DATABASE_URL = _text("DATABASE_URL", f"sqlite:///{quote(f'{DATA_DIR}/keyportal.sqlite3')}")
_database = read_url(DATABASE_URL, DATA_DIR)
IS_POSTGRESQL = _database["ENGINE"].endswith("postgresql")
# "transaction": a pooler gives each transaction another session, so nothing is set for a session.
DB_POOLER = _text("KEYPORTAL_DB_POOLER", "").lower()
if DB_POOLER not in {"", "transaction"}:
    raise ImproperlyConfigured(f"KEYPORTAL_DB_POOLER must be transaction, not {DB_POOLER!r}.")
DATABASES = databases(_database, has_pooler=bool(DB_POOLER))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
# Rate limits must be shared by all workers, and local memory is not.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "keyportal_cache",
        # Beyond this number, entries are removed early. Attack: with the default of 300, sign-ins
        # with many invented names would remove the counts of real ones.
        "OPTIONS": {"MAX_ENTRIES": 30_000},
    }
}

# Accounts.

AUTH_USER_MODEL = "teams.User"
AUTHENTICATION_BACKENDS = ["keyportal.teams.sign_in.backends.PeopleBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
] + [{"NAME": "keyportal.teams.sign_in.passwords.InstallationWordsValidator"}]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
ACCOUNT_ADAPTER = "keyportal.teams.accounts.AccountAdapter"
ACCOUNT_FORMS = {
    "login": "keyportal.teams.accounts.SignInForm",
    "change_password": "keyportal.teams.accounts.PasswordChangeForm",
}
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "email", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_EMAIL_SUBJECT_PREFIX = "[Keyportal] "
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False  # Attack: a stranger makes us send mail to others.
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
# What decides who may do what needs a proof of the last minutes, see `recently_authenticated`.
ACCOUNT_REAUTHENTICATION_TIMEOUT = 15 * 60
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    # allauth's own count depends on the Host header, and anyone could fill it for others.
    "login_failed": None,
    # Wrong passwords, see `keyportal/teams/sign_in/attempts.py`.
    "failed_from_network": "10/m/ip",
    "failed_for_account": "50/h/key",
    "failed_for_account_from_network": "5/5m/key",
    "failed_in_known_browser": "10/5m/key",
    # Wrong codes of a second factor, see `keyportal/teams/sign_in/factor_forms.py`.
    "code_elsewhere": "5/5m/key,20/d/key",
    "code_in_known_browser": "10/5m/key,50/d/key",
    # The form counts wrong passwords. Attack: someone at an open session keeps its user from
    # changing the password.
    "change_password": None,
    "reset_password": "20/m/ip,5/m/key",
    "openid": "30/m/ip",  # Each asks a provider for something.
    "openid_logout": "300/m/ip",  # The same, and a provider tells of many people from one address.
    # Attack: a member fills the audit. A person who works quickly sends a form every few seconds.
    "portal_write": "60/m/user",
    "ask_server": "30/m/user",  # Each page asks a model server for its list.
    # Attack: an admin, or their program, mails strangers through us.
    "invite": "100/h/key",  # For each team.
    "invite_again": "5/h/key",  # For each team and address.
    # Sign-in of programs: begun, polled (each polls 12 times a minute), and wrong codes.
    "device_begin": "20/m/ip",
    "device_poll": "300/m/ip",
    "device_code": "10/5m/user",
    "new_email": "5/h/user",  # Attack: a person has us send mail to others.
    "report_leak": "20/m/ip",  # Our own. One report may contain hundreds of keys.
    "leak_mail": "10/h/key",  # Reports by strangers about which a team gets mail.
}
# Where people can also sign in, see docs/identity-providers.md. Operators may add others.
OIDC_PROVIDERS = parse_oidc_providers(_text("KEYPORTAL_OIDC_PROVIDERS", ""))
# Off: only there, or with a passkey, or with a link of the command `signinlink`.
PASSWORD_SIGN_IN = _is_on("KEYPORTAL_PASSWORD_SIGN_IN", "on")
# With them, a company's directory provisions people and groups. Several while it changes.
SCIM_TOKENS = _words(_text("KEYPORTAL_SCIM_TOKEN", ""))
# Attack: a short token is guessed.
if any(len(token) < 32 for token in SCIM_TOKENS):
    raise ImproperlyConfigured(
        "KEYPORTAL_SCIM_TOKEN must have at least 32 characters. "
        "Take the output of `openssl rand -hex 32`."
    )
SCIM_GROUPS = parse_groups("KEYPORTAL_SCIM_GROUPS", _text("KEYPORTAL_SCIM_GROUPS", ""))
SOCIALACCOUNT_ADAPTER = "keyportal.teams.openid.accounts.SocialAccountAdapter"
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "provider_class": "keyportal.teams.openid.provider.OpenIDProvider",
        "OAUTH_PKCE_ENABLED": True,
    }
}
_required = _text("KEYPORTAL_REQUIRE_SECOND_FACTOR", "off").lower()
# Days within which each person must set one up; None: not required.
SECOND_FACTOR_DAYS = (
    None
    if _required in {"off", "no", "false"}
    else _number("KEYPORTAL_REQUIRE_SECOND_FACTOR", 0, min_value=0, max_value=365)
)
ACCOUNT_EMAIL_NOTIFICATIONS = True  # A changed password or factor is told by mail.
MFA_ADAPTER = "keyportal.teams.sign_in.factors.FactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_TOTP_ISSUER = "Keyportal"
MFA_ALLOW_UNVERIFIED_EMAIL = True  # Operators make the accounts.
MFA_FORMS = {
    "authenticate": "keyportal.teams.sign_in.factor_forms.CodeForm",
    "reauthenticate": "keyportal.teams.sign_in.factor_forms.CodeAgainForm",
    "login_webauthn": "keyportal.teams.sign_in.factor_forms.PasskeySignInForm",
    "authenticate_webauthn": "keyportal.teams.sign_in.factor_forms.PasskeyForm",
    "reauthenticate_webauthn": "keyportal.teams.sign_in.factor_forms.PasskeyAgainForm",
    "add_webauthn": "keyportal.teams.sign_in.factor_forms.AddPasskeyForm",
    "edit_webauthn": "keyportal.teams.sign_in.factor_forms.RenamePasskeyForm",
}
# A sign-in needs two requests, and many people may share an address. A passkey can't be guessed.
MFA_RATE_LIMITS = {"webauthn_login": "60/m/ip"}
SESSION_ENGINE = "keyportal.teams.sign_in.sessions"
# A session that is not used ends after the first, any session after the second.
SESSION_COOKIE_AGE = 3600 * _number("KEYPORTAL_SESSION_IDLE_HOURS", 12, min_value=1, max_value=8760)
SESSION_MAX_AGE = 86_400 * _number("KEYPORTAL_SESSION_DAYS", 14, min_value=1, max_value=3650)
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = IS_HTTPS
CSRF_COOKIE_HTTPONLY = True  # Scripts have the token from the page.
# Attack: another host of the domain, or a page over plain HTTP, sets a cookie of ours. A browser
# accepts a cookie with the prefix `__Host-` only from this host, over https, for all paths. Below a
# path, other programs on this host must not get the cookies; then only plain HTTP can be excluded.
_secure_prefix = "__Secure-" if BASE_PATH else "__Host-"
COOKIE_PREFIX = _secure_prefix if IS_HTTPS else ""
SESSION_COOKIE_NAME = f"{COOKIE_PREFIX}keyportal_session"
CSRF_COOKIE_NAME = f"{COOKIE_PREFIX}keyportal_csrf"
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = BASE_PATH or "/"
# Not in a cookie of their own, whose name could not have the prefix, nor its path be set.
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"
CSRF_FAILURE_VIEW = "keyportal.teams.views.csrf_failure"

# Security headers.

SECURE_SSL_REDIRECT = IS_HTTPS
_path_start = re.escape(f"{BASE_PATH}/"[1:])
SECURE_REDIRECT_EXEMPT = [
    # Plain HTTP is refused there: a client would follow the redirect with its key.
    rf"^{_path_start}api(/|$)",
    # Plain HTTP is accepted there: a client that follows a redirect sends its request without the
    # report, and the leaked key stays valid.
    rf"^{_path_start}leaks/report$",
]
SECURE_HSTS_SECONDS = 31_536_000 if IS_HTTPS else 0
# For this host name only. Subdomains, and the browsers' preload list, which is hard to leave again,
# are the decision of the domain's owner, in the proxy in front.
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = False
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]  # They want both of these.
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
NUMBER_GROUPING = 3  # 1,234,567, where a template uses it.
STATIC_URL = f"{BASE_PATH}/static/"
WHITENOISE_ALLOW_ALL_ORIGINS = False
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
try:
    EMAIL_CONFIG = env.email_url_config(_text("EMAIL_URL", "consolemail://"))
except (ValueError, KeyError, ImproperlyConfigured):
    raise ImproperlyConfigured(
        "EMAIL_URL can't be read. It must look like smtp+tls://user:password@host:587."
    ) from None
vars().update(EMAIL_CONFIG)
# Mail is queued in the database; the outbox sends it with the backend of EMAIL_URL.
OUTBOX_EMAIL_BACKEND = EMAIL_CONFIG["EMAIL_BACKEND"]
EMAIL_BACKEND = "keyportal.notifications.backend.OutboxBackend"
EMAIL_TIMEOUT = 30


def _sender(variable: str, default: str) -> str:
    """Return an address, with or without a name: `Keyportal <keys@example.com>`."""
    text = _text(variable, default)
    name, address = parseaddr(text)
    try:
        Address(name, addr_spec=address)
        is_valid = "@" in address and text.isprintable()
    except (ValueError, IndexError, HeaderParseError):
        is_valid = False
    if not is_valid:
        raise ImproperlyConfigured(
            f"{variable} must be an address such as keys@example.com or "
            f"Keyportal <keys@example.com>, not {text!r}."
        )
    return text


DEFAULT_FROM_EMAIL = SERVER_EMAIL = _sender("DEFAULT_FROM_EMAIL", "keyportal@localhost")
# Django logs each of these with a traceback.
_SUSPICIOUS = (
    "DisallowedHost",
    "RequestDataTooBig",
    "SuspiciousOperation",
    "TooManyFieldsSent",
    "TooManyFilesSent",
)
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        # The last line of defence: a key string in a log line is redacted.
        "console": {
            "()": "keyportal.server.logging.RedactingFormatter",
            "format": "{asctime} {levelname} {name}: {message}",
            "style": "{",
        },
        "json": {"()": "keyportal.server.logging.JSONFormatter"},
    },
    "filters": {
        "refusal": {"()": "keyportal.server.logging.RefusalFilter"},
        "outage": {"()": "keyportal.database.outage.OutageFilter"},
    },
    "handlers": {"console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT}},
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {
        "django": {"handlers": [], "propagate": True},
        "django.request": {"filters": ["refusal", "outage"]},
        # It warns of each attempt to connect. An outage is logged once.
        "psycopg.pool": {"level": "ERROR"},
        **{f"django.security.{name}": {"filters": ["refusal"]} for name in _SUSPICIOUS},
        "django.server": {"handlers": [], "propagate": True},
    },
}

# Keys.


def _prefixes(variable: str, default: str) -> tuple[str, ...]:
    VARIABLES.add(variable)
    return tuple(env.list(variable, default=[default]))


# New keys get the first prefix; all are accepted.
KEY_PREFIXES = _prefixes("KEYPORTAL_KEY_PREFIXES", "sk-kp-")
# The prefixes of management keys. None may be in the list above.
MANAGEMENT_KEY_PREFIXES = _prefixes("KEYPORTAL_MANAGEMENT_KEY_PREFIXES", "mk-kp-")
API_REQUESTS_PER_MINUTE = _number("KEYPORTAL_API_REQUESTS_PER_MINUTE", 600, min_value=1)
MAX_KEYS = _number("KEYPORTAL_MAX_KEYS", 20, min_value=0, max_value=1_000_000)

# Scheduled jobs; off if they are run by cron.
SCHEDULER = _is_on("KEYPORTAL_SCHEDULER", "on")

# Leaks.

# GitHub's public keys; a system check reads the file. Empty: no report of GitHub is accepted.
GITHUB_KEYS_FILE = _text("KEYPORTAL_GITHUB_KEYS_FILE", "")
# A program with a few addresses never reaches the first; a key in a public repository does within
# an hour. The second is more than a person tries by mistake. 0 turns an alarm off.
ALARM_NETWORKS = _number("KEYPORTAL_ALARM_NETWORKS", 10, min_value=0, max_value=10_000)
ALARM_REFUSALS = _number("KEYPORTAL_ALARM_REFUSALS", 100, min_value=0)

# The gateway.

WEB_CONCURRENCY = _number("WEB_CONCURRENCY", 1, min_value=1, max_value=1024)
MAX_BODY_BYTES = _number("KEYPORTAL_MAX_BODY_BYTES", 20 * 1024 * 1024, min_value=1)
# Of the bodies of calls, in each worker.
BODY_MEMORY = _number("KEYPORTAL_BODY_MEMORY", 256 * 1024 * 1024, min_value=1, max_value=2**50)
BODY_DISK = _number("KEYPORTAL_BODY_DISK", 1024 * 1024 * 1024, min_value=1, max_value=2**50)
MAX_RUNNING_CALLS = _number("KEYPORTAL_MAX_RUNNING_CALLS", 10_000, min_value=1)
# 0: for ever.
AUDIT_RETENTION_DAYS = _number("KEYPORTAL_AUDIT_RETENTION_DAYS", 400, min_value=0, max_value=36_500)
CALL_RETENTION_DAYS = _number("KEYPORTAL_CALL_RETENTION_DAYS", 7, min_value=1, max_value=3650)


def _origins(variable: str) -> tuple[str, ...]:
    """Return origins as browsers send them: in lower case, without the scheme's usual port.

    Schemes other than http are those of apps and browser extensions, such as `tauri://localhost`.
    """
    origins = [origin.lower() for origin in _words(_text(variable, ""))]
    host = r"(?:[a-z0-9_-]+(?:\.[a-z0-9_-]+)*|\[[0-9a-f:.]+\])"
    for origin in origins:
        if not re.fullmatch(rf"\*|[a-z][a-z0-9+.-]*://{host}(?::[0-9]{{1,5}})?", origin):
            raise ImproperlyConfigured(
                f"{variable} must contain origins such as https://app.example.com, without a path "
                f"or a slash at the end, or *; not {origin!r}."
            )
    usual_port = r"^(http://.+):80$|^(https://.+):443$"
    return tuple(re.sub(usual_port, r"\1\2", origin) for origin in origins)


# As long as OpenAI keeps the answers themselves.
RESPONSE_RETENTION_DAYS = _number(
    "KEYPORTAL_RESPONSE_RETENTION_DAYS", 30, min_value=1, max_value=3650
)
# Web pages of these origins may call `/v1/` from a browser.
CORS_ORIGINS = _origins("KEYPORTAL_CORS_ORIGINS")
# Seconds of silence after which a stream's caller gets a comment; 0: never.
STREAM_KEEPALIVE_SECONDS = _number(
    "KEYPORTAL_STREAM_KEEPALIVE_SECONDS", 15, min_value=0, max_value=3600
)
# For Prometheus; 0: off. Attack: a stranger reads how many calls there are. So the port is another
# one than that of the portal, and by default only this machine reaches it.
METRICS_PORT = _number("KEYPORTAL_METRICS_PORT", 0, min_value=0, max_value=65535)
METRICS_HOST = _text("KEYPORTAL_METRICS_HOST", "127.0.0.1")
# Whether metrics have the slugs of teams, and the names of the teams' own models.
METRICS_TEAMS = _is_on("KEYPORTAL_METRICS_TEAMS", "off")
if METRICS_PORT == PORT:
    raise ImproperlyConfigured("KEYPORTAL_METRICS_PORT must be another port than PORT.")
GRACEFUL_TIMEOUT = _number("KEYPORTAL_GRACEFUL_TIMEOUT", 60, min_value=1, max_value=86_400)
# Seconds for which a process that stops still accepts requests, so that a load balancer notices.
DRAIN_SECONDS = _number("KEYPORTAL_DRAIN_SECONDS", 0, min_value=0, max_value=3600)
