"""What `make check` says of known vulnerabilities, with and without pip-audit's database."""

import json
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.any_database

ROOT = Path(__file__).parent.parent
FINE = {"name": "django", "version": "5.2.19", "vulns": []}
BAD = {
    "name": "gunicorn",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": [], "description": ""}],
}
UNKNOWN = {"name": "cffi", "skip_reason": "Dependency not found on PyPI"}
Audit = Callable[..., None]


@pytest.fixture
def audit(monkeypatch: pytest.MonkeyPatch) -> Audit:
    """Run the script with this output of pip-audit."""

    def audit(*packages: dict[str, Any], stdout: str = "", stderr: str = "") -> None:
        stdout = stdout or json.dumps({"dependencies": packages, "fixes": []})

        def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            assert {"requirements.txt", "requirements-dev.txt"} <= {*command}
            return subprocess.CompletedProcess(command, 1, stdout, stderr)

        monkeypatch.setattr(subprocess, "run", run)
        runpy.run_path(str(ROOT / ".ci" / "audit.py"), run_name="__main__")

    return audit


def test_no_vulnerability(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    audit(FINE, FINE)
    assert capsys.readouterr().out == "pip-audit: no known vulnerability in 2 packages.\n"


@pytest.mark.parametrize("others", [(FINE,), (UNKNOWN,)])
def test_a_vulnerability_fails_the_check(audit: Audit, others: tuple[dict[str, Any], ...]) -> None:
    with pytest.raises(SystemExit, match=r"gunicorn 1\.0: PYSEC-2026-1, mended in 1\.1"):
        audit(*others, BAD)


def test_a_mirror_without_the_database_is_told(
    audit: Audit, capsys: pytest.CaptureFixture[str]
) -> None:
    audit(FINE, UNKNOWN)
    said = capsys.readouterr().out
    assert "NOT checked, 1 of 2 packages" in said
    assert "no known vulnerability" not in said


def test_a_missing_network_is_told(audit: Audit, capsys: pytest.CaptureFixture[str]) -> None:
    audit(stdout="error", stderr="a line\nerror: Failed to fetch pip-audit\n")
    said = capsys.readouterr().out
    assert said == "pip-audit: NOT checked, it could not run: error: Failed to fetch pip-audit\n"


def test_make_check_runs_it() -> None:
    (recipe,) = [
        text for text in (ROOT / "Makefile").read_text().split("\n\n") if text.startswith("check:")
    ]
    assert "$(BIN)/python .ci/audit.py" in recipe
