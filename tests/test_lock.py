"""Each locked package has a wheel for each supported Python, so that no compiler is needed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from django.conf import settings

pytestmark = [pytest.mark.index, pytest.mark.long]
LOCKS = ("requirements.txt", "requirements-dev.txt")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


@pytest.mark.parametrize("version", PYTHONS)
def test_all_packages_have_wheels_with_the_locked_hashes(version: str, tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "install", "--dry-run", "--only-binary", ":all:", "--require-hashes"]
    options = ["--python-version", version, "--target", str(tmp_path)]
    files = [argument for lock in LOCKS for argument in ("-r", lock)]
    done = subprocess.run(
        [*command, *options, *files], cwd=settings.BASE_DIR, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "gunicorn" in done.stderr


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_index(lock: str) -> None:
    """The machine that installs chooses the index."""
    assert not re.search(r"--\w*index|--find-links|://", (settings.BASE_DIR / lock).read_text())
