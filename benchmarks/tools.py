"""Installs programs that are only measured or tried, each in its own folder under `var/tools/`.

They are not in the project's environment, so that their dependencies don't mix with ours.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.processes import ROOT

CACHE = ROOT / "var" / "tools"


class NotInstalled(Exception):
    """The text says why. It is shown in the table."""


def from_pip(package: str, version: str, *extras: str) -> Path:
    """The `bin` folder of a virtual environment with this package."""
    folder = CACHE / f"{package}-{version}"
    requirement = f"{package}[{','.join(extras)}]=={version}" if extras else f"{package}=={version}"
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    _install(folder, [sys.executable, "-m", "venv", "--clear", str(folder)], [*pip, requirement])
    return folder / "bin"


def from_npm(package: str, version: str, *others: str, runs_scripts: bool = False) -> Path:
    """The folder with `node_modules`: this package, and `others` such as `ai@7.0.1`.

    Their install scripts are run only if a package needs them for its program.
    """
    folder = CACHE / f"{package.rpartition('/')[2]}-{version}"
    if not shutil.which("npm"):
        raise NotInstalled("no npm on this machine: apt-get install nodejs npm")
    options = ["--no-audit", "--no-fund", "--omit=dev", "--silent"]
    if not runs_scripts:
        options.append("--ignore-scripts")
    install = ["npm", "install", "--prefix", str(folder), *options, f"{package}@{version}", *others]
    _install(folder, ["mkdir", "-p", str(folder)], install)
    return folder


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
