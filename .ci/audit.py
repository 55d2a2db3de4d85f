"""Look for known vulnerabilities in the pinned packages, with pip-audit.

It asks PyPI about each package. Where PyPI's database can't be reached, or is that of a mirror that
has none, this says so and is no failure: a change can also be checked without a network.
"""
# ruff: noqa: INP001, T201

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit@2.10.1"
FILES = ("requirements.txt", "requirements-dev.txt")
SECONDS = 180


def main() -> None:
    try:
        done = subprocess.run(_command(), capture_output=True, text=True, timeout=SECONDS)  # noqa: PLW1510 - its exit code says less than its output
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        print(f"pip-audit: NOT checked, no answer within {SECONDS} seconds.")
    except ValueError:
        reason = done.stderr.strip().splitlines()[-1:] or ["no output"]
        print(f"pip-audit: NOT checked, it could not run: {reason[0]}")
    else:
        _report(packages)


def _command() -> list[str]:
    # In an environment of its own, so that what it needs is no dependency of ours.
    uv = Path(sys.executable).with_name("uv")
    options = ["--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json"]
    files = [argument for name in FILES for argument in ("--requirement", name)]
    return [str(uv), "tool", "run", "--quiet", PIP_AUDIT, *options, *files]


def _report(packages: list[dict[str, Any]]) -> None:
    """Exits with a message if a package has a known vulnerability."""
    found = [
        f"{package['name']} {package['version']}: {each['id']}, "
        f"mended in {', '.join(each['fix_versions']) or 'no version'}"
        for package in packages
        for each in package.get("vulns", ())
    ]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        print(
            f"pip-audit: NOT checked, {len(unknown)} of {len(packages)} packages are not in the "
            f"database that it reaches, such as {unknown[0]}."
        )
    if found:
        sys.exit("\n".join(["pip-audit: known vulnerabilities.", *found]))
    if not unknown:
        print(f"pip-audit: no known vulnerability in {len(packages)} packages.")


if __name__ == "__main__":
    main()
