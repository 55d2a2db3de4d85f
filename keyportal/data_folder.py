"""The data folder, and the secrets that are kept in it where the environment has none.

Settings read them, so nothing here may read a setting.
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
# Variable -> the file's name, and how to make one.
KEPT: dict[str, tuple[str, Callable[[], str]]] = {
    "SECRET_KEY": ("secret_key", lambda: secrets.token_urlsafe(64)),
    "KEYPORTAL_CREDENTIAL_KEYS": ("credential_keys", lambda: Fernet.generate_key().decode()),
}


def folder() -> Path:
    given = os.environ.get("KEYPORTAL_DATA") or str(BASE_DIR / "var")
    return Path(given).expanduser().absolute()


def kept_secret(variable: str) -> str:
    """From the environment, else from the data folder; empty where neither has it."""
    if value := os.environ.get(variable, ""):
        return value
    file = folder() / KEPT[variable][0]
    try:
        return file.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ImproperlyConfigured(f"{file} can't be read: {_reason(error)}.") from error


def prepare() -> None:
    """Make the folder and the secrets that are missing. A second start at once finds the same."""
    with _as_misconfiguration():
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        for variable, (name, make) in KEPT.items():
            if not os.environ.get(variable) and not (folder() / name).exists():
                _keep(folder() / name, make())


def _keep(file: Path, value: str) -> None:
    """Write beside, then link: the file appears whole, and only if nobody else's is there."""
    descriptor, beside = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")  # mode 600
    try:
        with open(descriptor, "w") as out:  # noqa: PTH123 - an open descriptor, no path
            out.write(value + "\n")
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileExistsError):
            os.link(beside, file)
    finally:
        Path(beside).unlink()


@contextmanager
def _as_misconfiguration() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImproperlyConfigured(
            f"The data folder {folder()} can't be written: {_reason(error)}. "
            f"KEYPORTAL_DATA chooses another."
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
