"""The data folder, and the secrets in its files, which are used if the environment has none.

The settings read them, so this module must not read a setting.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.fernet import Fernet
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent
# The name of the variable -> the name of the file, and a function that generates the secret.
SECRETS: dict[str, tuple[str, Callable[[], str]]] = {
    "SECRET_KEY": ("secret_key", lambda: secrets.token_urlsafe(64)),
    "KEYPORTAL_CREDENTIAL_KEYS": ("credential_keys", lambda: Fernet.generate_key().decode()),
}


def folder() -> Path:
    path = os.environ.get("KEYPORTAL_DATA") or str(BASE_DIR / "var")
    return Path(path).expanduser().absolute()


def read_secret(variable: str) -> str:
    """Return a secret from the environment, else from the data folder; empty if neither has it."""
    if value := os.environ.get(variable, ""):
        return value
    file = folder() / SECRETS[variable][0]
    try:
        return file.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(f"{file} can't be read: {_reason(error)}.") from error


def prepare() -> None:
    """Create the folder and the missing secrets. Concurrent starts get the same secrets."""
    with _report_unwritable():
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        for variable, (name, generate) in SECRETS.items():
            if not os.environ.get(variable) and not (folder() / name).exists():
                _write_once(folder() / name, generate())


def _write_once(file: Path, value: str) -> None:
    """Write the file, unless it exists.

    It is written under another name and then linked, so that no other process reads half of it.
    """
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 600
    try:
        with open(descriptor, "w") as out:  # noqa: PTH123 - an open descriptor, not a path
            out.write(value + "\n")
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(temporary, file)
    finally:
        Path(temporary).unlink()


@contextmanager
def _report_unwritable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImproperlyConfigured(
            f"The data folder {folder()} can't be written: {_reason(error)}. "
            f"Choose another one with KEYPORTAL_DATA."
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
