"""Installs programs that only the benchmarks need, each in its own folder under `var/bench/`.

They are not in the project's environment, so that their dependencies don't mix with ours.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import ROOT

CACHE = ROOT / "var" / "bench"


class NotInstalled(Exception):
    """The text says why. It is shown in the table."""


def from_pip(package: str, version: str, *extras: str) -> Path:
    """The `bin` folder of a virtual environment with this package."""
    folder = CACHE / f"{package}-{version}"
    requirement = f"{package}[{','.join(extras)}]=={version}" if extras else f"{package}=={version}"
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    _install(folder, [sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, requirement])
    return folder / "bin"


def from_npm(package: str, version: str) -> Path:
    """The package's folder. Install scripts of it and of its dependencies are not run."""
    folder = CACHE / f"{package.rpartition('/')[2]}-{version}"
    if not shutil.which("npm"):
        raise NotInstalled("no npm on this machine: apt-get install nodejs npm")
    options = ["--ignore-scripts", "--no-audit", "--no-fund", "--omit=dev", "--silent"]
    install = ["npm", "install", "--prefix", str(folder), *options, f"{package}@{version}"]
    _install(folder, ["mkdir", "-p", str(folder)], install)
    return folder / "node_modules" / package


def _install(folder: Path, *commands: list[str]) -> None:
    """Run the commands once. After an interruption they run again: `installed` is written last."""
    marker = folder / "installed"
    if marker.exists():
        return
    for command in commands:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            lines = [line for line in result.stderr.splitlines() if line.strip()]
            raise NotInstalled(lines[-1].strip() if lines else f"{command[0]} failed")
    marker.touch()
