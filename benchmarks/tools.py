"""Programs that only benchmarks need, each in a folder of its own under `var/bench/`, once.

None of them is in the project's environment: what they depend on is nothing of ours.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import ROOT

CACHE = ROOT / "var" / "bench"


class NotInstalled(Exception):
    """The text says why, in the table."""


def from_pip(package: str, version: str, *extras: str) -> Path:
    """The `bin` folder of an environment with this package."""
    folder = CACHE / f"{package}-{version}"
    wanted = f"{package}[{','.join(extras)}]=={version}" if extras else f"{package}=={version}"
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    _install(folder, [sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, wanted])
    return folder / "bin"


def from_npm(package: str, version: str) -> Path:
    """The package's folder. No script of it or of what it brings is run."""
    folder = CACHE / f"{package.rpartition('/')[2]}-{version}"
    if not shutil.which("npm"):
        raise NotInstalled("no npm on this machine: apt-get install nodejs npm")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--silent"]
    install = ["npm", "install", "--prefix", str(folder), *options, f"{package}@{version}"]
    _install(folder, ["mkdir", "-p", str(folder)], install)
    return folder / "node_modules" / package


def _install(folder: Path, *commands: list[str]) -> None:
    """The mark is written last, so what was interrupted is installed anew."""
    mark = folder / "installed"
    if mark.exists():
        return
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise NotInstalled(lines[-1].strip() if lines else f"{command[0]} failed")
    mark.touch()
