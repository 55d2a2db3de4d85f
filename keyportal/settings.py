"""All settings. They are read from the environment, with defaults that are safe in production.

docs/configuration.md lists each variable; a test fails if one is missing there.
"""

import re
from urllib.parse import quote

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.core.management.utils import get_random_secret_key

from keyportal import data_folder, environment
from keyportal.catalog.servers.team_servers import AllowedServers
from keyportal.database.configuration import databases, read_url
from keyportal.environment import (
    authority,
    machine_names,
    public_parts,
    read_choice,
    read_email_url,
    read_networks,
    read_number,
    read_origins,
    read_prefixes,
    read_secret,
    read_sender,
    read_share,
    read_switch,
    read_text,
    words,
)
from keyportal.teams.openid.configuration import parse as parse_oidc_providers
from keyportal.teams.openid.configuration import parse_groups

VARIABLES = environment.VARIABLES
BASE_DIR = data_folder.BASE_DIR
DATA_DIR = data_folder.folder()
_log_level = read_choice("KEYPORTAL_LOG_LEVEL", "info", "debug", "warning", "error", "critical")
LOG_LEVEL = _log_level.upper()
TEAM_CREATION = read_choice("KEYPORTAL_TEAM_CREATION", "operators", "anyone")
try:
    TEAM_SERVERS = AllowedServers.parse(words(read_text("KEYPORTAL_TEAM_SERVERS", "off")))
except ValueError as error:
    raise ImproperlyConfigured(
        f"KEYPORTAL_TEAM_SERVERS must be off, public, or a list of networks and names of hosts: "
        f"{error}."
    ) from error
LOG_FORMAT = read_choice("KEYPORTAL_LOG_FORMAT", "console", "json")
DEBUG = read_switch("DEBUG", "off")
# The part of the served requests to the gateway that get a line in the log.
ACCESS_LOG = read_share("KEYPORTAL_ACCESS_LOG")
SECRET_KEY = read_secret("SECRET_KEY", is_required=not DEBUG) or get_random_secret_key()
# Attack: a short one is guessed from a signed link, and then any session or link can be forged.
if len(SECRET_KEY) < 32:
    raise ImproperlyConfigured(
        "SECRET_KEY must have at least 32 characters. Unset it, and a start makes a file with one, "
        "or take the output of `openssl rand -hex 32`."
    )
# Fernet keys, the newest first. They encrypt secrets in the database.
CREDENTIAL_KEYS = tuple(words(read_secret("KEYPORTAL_CREDENTIAL_KEYS", is_required=not DEBUG)))

# Addresses.

HOST = read_text("HOST", "127.0.0.1")
PORT = read_number("PORT", 8000, min_value=1, max_value=65535)
LISTENS_EVERYWHERE = HOST in {"0.0.0.0", "::"}  # noqa: S104 - only compared
# The beginnings of Keyportal's own paths. If `/models` were the path of KEYPORTAL_URL, a request
# for `/models/...` could mean two things, because a proxy may have removed the path before.
OWN_NAMES = frozenset(
    words(
        "accounts admin api audio auth chat completions device embeddings healthz images "
        "invitations leaks messages models moderations oauth openai operators profile readyz "
        "rerank responses static teams v1 v2"
    )
)
# Empty only if the server listens on all addresses and KEYPORTAL_URL is not set. Then links and
# examples use the host of the request, which must be in ALLOWED_HOSTS.
_own_url = "" if LISTENS_EVERYWHERE else f"http://{authority(HOST)}:{PORT}"
PUBLIC_URL = read_text("KEYPORTAL_URL", "").rstrip("/") or _own_url
_public = public_parts(PUBLIC_URL, OWN_NAMES)
IS_HTTPS = _public.scheme == "https"
BASE_PATH = _public.path
"""The path of the public address, such as `/keyportal`; empty if it has none."""
LOOPBACK_ADDRESSES = frozenset({"127.0.0.1", "::1"})
_LOOPBACK_NAMES = {"localhost", *LOOPBACK_ADDRESSES}
_hosts = {_public.hostname} if _public.hostname else machine_names()
if _hosts & _LOOPBACK_NAMES:
    _hosts |= _LOOPBACK_NAMES
ALLOWED_HOSTS = sorted(authority(host) for host in _hosts if host)
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL.removesuffix(BASE_PATH)] if PUBLIC_URL else []
# X-Forwarded-* or Forwarded is read only from these.
TRUSTED_PROXIES = read_networks("KEYPORTAL_TRUSTED_PROXIES")
PROXY_HEADER = read_choice("KEYPORTAL_PROXY_HEADER", "x-forwarded-for", "forwarded")

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

DATABASE_URL = read_text("DATABASE_URL", f"sqlite:///{quote(f'{DATA_DIR}/keyportal.sqlite3')}")
_database = read_url(DATABASE_URL, DATA_DIR)
IS_POSTGRESQL = _database["ENGINE"].endswith("postgresql")
# "transaction": a pooler gives each transaction another session, so nothing is set for a session.
DB_POOLER = read_choice("KEYPORTAL_DB_POOLER", "", "transaction")
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
OIDC_PROVIDERS = parse_oidc_providers(read_text("KEYPORTAL_OIDC_PROVIDERS", ""))
# Off: only there, or with a passkey, or with a link of the command `signinlink`.
PASSWORD_SIGN_IN = read_switch("KEYPORTAL_PASSWORD_SIGN_IN", "on")
# With them, a company's directory provisions people and groups. Several while it changes.
SCIM_TOKENS = words(read_text("KEYPORTAL_SCIM_TOKEN", ""))
# Attack: a short token is guessed.
if any(len(token) < 32 for token in SCIM_TOKENS):
    raise ImproperlyConfigured(
        "KEYPORTAL_SCIM_TOKEN must have at least 32 characters. "
        "Take the output of `openssl rand -hex 32`."
    )
SCIM_GROUPS = parse_groups("KEYPORTAL_SCIM_GROUPS", read_text("KEYPORTAL_SCIM_GROUPS", ""))
SOCIALACCOUNT_ADAPTER = "keyportal.teams.openid.accounts.SocialAccountAdapter"
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "provider_class": "keyportal.teams.openid.provider.OpenIDProvider",
        "OAUTH_PKCE_ENABLED": True,
    }
}
_required = read_text("KEYPORTAL_REQUIRE_SECOND_FACTOR", "off").lower()
# Days within which each person must set one up; None: not required.
SECOND_FACTOR_DAYS = (
    None
    if _required in {"off", "no", "false"}
    else read_number("KEYPORTAL_REQUIRE_SECOND_FACTOR", 0, min_value=0, max_value=365)
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
SESSION_COOKIE_AGE = 3600 * read_number(
    "KEYPORTAL_SESSION_IDLE_HOURS", 12, min_value=1, max_value=8760
)
SESSION_MAX_AGE = 86_400 * read_number("KEYPORTAL_SESSION_DAYS", 14, min_value=1, max_value=3650)
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
EMAIL_CONFIG = read_email_url("EMAIL_URL", "consolemail://")
vars().update(EMAIL_CONFIG)
# Mail is queued in the database; the outbox sends it with the backend of EMAIL_URL.
OUTBOX_EMAIL_BACKEND = EMAIL_CONFIG["EMAIL_BACKEND"]
EMAIL_BACKEND = "keyportal.notifications.backend.OutboxBackend"
EMAIL_TIMEOUT = 30

DEFAULT_FROM_EMAIL = SERVER_EMAIL = read_sender("DEFAULT_FROM_EMAIL", "keyportal@localhost")
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

# New keys get the first prefix; all are accepted.
KEY_PREFIXES = read_prefixes("KEYPORTAL_KEY_PREFIXES", "sk-kp-")
# The prefixes of management keys. None may be in the list above.
MANAGEMENT_KEY_PREFIXES = read_prefixes("KEYPORTAL_MANAGEMENT_KEY_PREFIXES", "mk-kp-")
API_REQUESTS_PER_MINUTE = read_number("KEYPORTAL_API_REQUESTS_PER_MINUTE", 600, min_value=1)
MAX_KEYS = read_number("KEYPORTAL_MAX_KEYS", 20, min_value=0, max_value=1_000_000)

# Scheduled jobs; off if they are run by cron.
SCHEDULER = read_switch("KEYPORTAL_SCHEDULER", "on")

# Leaks.

# GitHub's public keys; a system check reads the file. Empty: no report of GitHub is accepted.
GITHUB_KEYS_FILE = read_text("KEYPORTAL_GITHUB_KEYS_FILE", "")
# A program with a few addresses never reaches the first; a key in a public repository does within
# an hour. The second is more than a person tries by mistake. 0 turns an alarm off.
ALARM_NETWORKS = read_number("KEYPORTAL_ALARM_NETWORKS", 10, min_value=0, max_value=10_000)
ALARM_REFUSALS = read_number("KEYPORTAL_ALARM_REFUSALS", 100, min_value=0)

# The gateway.

WEB_CONCURRENCY = read_number("WEB_CONCURRENCY", 1, min_value=1, max_value=1024)
MAX_BODY_BYTES = read_number("KEYPORTAL_MAX_BODY_BYTES", 20 * 1024 * 1024, min_value=1)
# Of the bodies of calls, in each worker.
BODY_MEMORY = read_number("KEYPORTAL_BODY_MEMORY", 256 * 1024 * 1024, min_value=1, max_value=2**50)
BODY_DISK = read_number("KEYPORTAL_BODY_DISK", 1024 * 1024 * 1024, min_value=1, max_value=2**50)
MAX_RUNNING_CALLS = read_number("KEYPORTAL_MAX_RUNNING_CALLS", 10_000, min_value=1)
# 0: for ever.
AUDIT_RETENTION_DAYS = read_number(
    "KEYPORTAL_AUDIT_RETENTION_DAYS", 400, min_value=0, max_value=36_500
)
CALL_RETENTION_DAYS = read_number("KEYPORTAL_CALL_RETENTION_DAYS", 7, min_value=1, max_value=3650)

# As long as OpenAI keeps the answers themselves.
RESPONSE_RETENTION_DAYS = read_number(
    "KEYPORTAL_RESPONSE_RETENTION_DAYS", 30, min_value=1, max_value=3650
)
# Web pages of these origins may call `/v1/` from a browser.
CORS_ORIGINS = read_origins("KEYPORTAL_CORS_ORIGINS")
# Seconds of silence after which a stream's caller gets a comment; 0: never.
STREAM_KEEPALIVE_SECONDS = read_number(
    "KEYPORTAL_STREAM_KEEPALIVE_SECONDS", 15, min_value=0, max_value=3600
)
# For Prometheus; 0: off. Attack: a stranger reads how many calls there are. So the port is another
# one than that of the portal, and by default only this machine reaches it.
METRICS_PORT = read_number("KEYPORTAL_METRICS_PORT", 0, min_value=0, max_value=65535)
METRICS_HOST = read_text("KEYPORTAL_METRICS_HOST", "127.0.0.1")
# Whether metrics have the slugs of teams, and the names of the teams' own models.
METRICS_TEAMS = read_switch("KEYPORTAL_METRICS_TEAMS", "off")
if METRICS_PORT == PORT:
    raise ImproperlyConfigured("KEYPORTAL_METRICS_PORT must be another port than PORT.")
GRACEFUL_TIMEOUT = read_number("KEYPORTAL_GRACEFUL_TIMEOUT", 60, min_value=1, max_value=86_400)
# Seconds for which a process that stops still accepts requests, so that a load balancer notices.
DRAIN_SECONDS = read_number("KEYPORTAL_DRAIN_SECONDS", 0, min_value=0, max_value=3600)
