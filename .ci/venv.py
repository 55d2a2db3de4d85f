"""Bring `.venv/` up to date: `PYTHON .ci/venv.py requirements.txt [requirements-dev.txt]`.

Run by the system's Python, older ones too, so that it can say what is wrong with it. The stamp
inside `.venv/` tells which interpreter and which locks are installed. It is removed before the
first change and written after the last, so a half-made environment is made anew.
"""
# ruff: noqa: INP001

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

VENV = Path(".venv")
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed.json"


def main(locks: list[str]) -> None:
    require_version()
    wanted = {lock: hashlib.sha256(Path(lock).read_bytes()).hexdigest() for lock in locks}
    wanted["python"] = f"{sys.version.split()[0]} {Path(sys.executable).resolve()}"
    installed = read_stamp()
    if all(installed.get(name) == value for name, value in wanted.items()):
        return
    if STAMP.exists():
        STAMP.unlink()
    if installed.get("python") != wanted["python"]:
        installed = {}
        make_environment()
    install(locks)
    write_stamp({**installed, **wanted})


def require_version() -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        sys.exit(
            f"Keyportal needs Python 3.11, 3.12 or 3.13, and {sys.executable} is "
            f"{sys.version.split()[0]}: choose another with `make PYTHON=python3.11 ...`."
        )


def read_stamp() -> dict[str, str]:
    """What is installed; nothing where the environment was never finished."""
    if not (STAMP.exists() and VENV_PYTHON.exists()):
        return {}
    found: dict[str, str] = json.loads(STAMP.read_text())
    return found


def write_stamp(installed: dict[str, str]) -> None:
    new = STAMP.with_suffix(".new")
    new.write_text(json.dumps(installed, indent=1))
    new.replace(STAMP)


def make_environment() -> None:
    if not has_ensurepip():
        install_ensurepip()
    run([sys.executable, "-m", "venv", "--clear", str(VENV)])


def has_ensurepip() -> bool:
    """Asked of a fresh process, which sees what apt-get has just installed."""
    command = [sys.executable, "-c", "import ensurepip"]
    return subprocess.call(command, stderr=subprocess.DEVNULL) == 0


def install_ensurepip() -> None:
    """Debian ships it in a package of its own."""
    apt_get = shutil.which("apt-get")
    if apt_get and os.geteuid() == 0:
        subprocess.call([apt_get, "update"])
        subprocess.call([apt_get, "install", "-y", "python3-venv"])
        if has_ensurepip():
            return
    sys.exit("apt-get install python3-venv")


def install(locks: list[str]) -> None:
    print(f"Installing what {' and '.join(locks)} list into {VENV}/ ...", flush=True)  # noqa: T201
    options = ["--quiet", "--disable-pip-version-check", "--require-hashes"]
    files = [part for lock in locks for part in ("-r", lock)]
    run([str(VENV_PYTHON), "-m", "pip", "install", *options, *files])


def run(command: list[str]) -> None:
    if subprocess.call(command):
        sys.exit(f"{' '.join(command)} failed.")


if __name__ == "__main__":
    main(sys.argv[1:])
