"""Keyportal's settings with a data folder for tests."""

import hashlib
import os
import tempfile
from pathlib import Path

_checkout = hashlib.sha256(str(Path(__file__).parent).encode()).hexdigest()[:8]
# One folder for each checkout and database, so that runs at the same time don't collide.
_database = "postgresql" if "DATABASE_URL" in os.environ else "sqlite"
_data = Path(tempfile.gettempdir()) / f"keyportal-tests-{os.getuid()}-{_checkout}-{_database}"
_data.mkdir(exist_ok=True)
os.environ |= {
    "SECRET_KEY": "only-for-tests-" + "x" * 50,
    "KEYPORTAL_CREDENTIAL_KEYS": "b25seS1mb3ItdGVzdHMtb25seS1mb3ItdGVzdHMtMTI=",
    "KEYPORTAL_DATA": str(_data),
    # Scheduled jobs would interfere with tests.
    "KEYPORTAL_SCHEDULER": "off",
}
for _variable in (
    "KEYPORTAL_URL",
    "HOST",
    "PORT",
    "DEBUG",
    "KEYPORTAL_TRUSTED_PROXIES",
    "KEYPORTAL_PROXY_HEADER",
):
    os.environ.pop(_variable, None)

from keyportal.settings import *  # noqa: E402, F403
from keyportal.settings import DATABASES, IS_POSTGRESQL  # noqa: E402
from tests.support.patience import be_patient  # noqa: E402

ALLOWED_HOSTS = ["testserver", "localhost", "127.0.0.1"]
# Fast. Only in tests, whose passwords are not secret.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.InMemoryStorage"},
    "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = True
be_patient(DATABASES)
if not IS_POSTGRESQL:
    # No test needs to survive a power cut, so nothing waits for the disk.
    for _settings in DATABASES.values():
        _settings["OPTIONS"]["init_command"] += " PRAGMA synchronous=OFF;"
    # A file, so that the workers of gunicorn and the admission thread use the same database.
    DATABASES["default"]["TEST"] = {"NAME": str(_data / f"test-{os.getpid()}.sqlite3")}
