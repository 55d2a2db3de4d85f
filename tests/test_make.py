"""What `make` does before anything is installed, on machines that lack something."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAKE = shutil.which("make") or "make"


class Checkout:
    """A fresh one, with locks that list nothing, so that pip has nothing to fetch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = folder / "tools"
        self.tools.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        for lock in ("requirements.txt", "requirements-dev.txt"):
            (folder / lock).write_text("# Nothing.\n")
        self.python = Path(sys.executable).resolve()

    def tool(self, name: str, script: str) -> Path:
        """A command that comes first on the PATH."""
        file = self.tools / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        python = (
            [] if any(a.startswith("PYTHON=") for a in arguments) else [f"PYTHON={self.python}"]
        )
        return subprocess.run(
            [MAKE, *python, *arguments],
            cwd=self.folder,
            env={"PATH": f"{self.tools}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=100,
        )

    @property
    def stamp(self) -> Path:
        return self.folder / ".venv" / "installed.json"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def test_make_alone_lists_the_targets(checkout: Checkout) -> None:
    listed = checkout.make().stdout
    for target in ("run", "test", "check", "format", "requirements"):
        assert f"make {target} " in listed


@pytest.mark.parametrize("version", ["3.10.9", "3.14.0"])
def test_another_python_is_refused_in_one_sentence(checkout: Checkout, version: str) -> None:
    # The real interpreter, telling another version.
    numbers = version.replace(".", ",")
    pretend = f"import sys, runpy; sys.version_info=({numbers}); sys.version='{version} x'; "
    run = "sys.argv=sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    checkout.tool("oldpython", f'exec {checkout.python} -c "{pretend}{run}" "$@"')
    done = checkout.make("serving", "PYTHON=oldpython")
    assert done.returncode != 0
    sentence, *rest = done.stderr.splitlines()
    assert sentence.startswith("Keyportal needs Python 3.11, 3.12 or 3.13, and ")
    assert f"is {version}: choose another with `make PYTHON=python3.11" in sentence
    assert [line for line in rest if not line.startswith("make: ***")] == []


def test_the_environment_is_made_once_and_again_when_a_lock_changes(checkout: Checkout) -> None:
    assert "requirements.txt list" in checkout.make("serving").stdout
    assert set(json.loads(checkout.stamp.read_text())) == {"python", "requirements.txt"}
    assert checkout.make("serving").stdout == ""

    mark = checkout.folder / ".venv" / "mark"
    mark.touch()
    (checkout.folder / "requirements.txt").write_text("# Still nothing.\n")
    assert "requirements.txt list" in checkout.make("serving").stdout
    assert mark.exists()

    assert "requirements-dev.txt list" in checkout.make("developing").stdout
    assert checkout.make("developing").stdout == ""
    assert checkout.make("serving").stdout == ""


def test_a_half_made_environment_is_made_anew(checkout: Checkout) -> None:
    checkout.make("serving")
    checkout.stamp.unlink()
    mark = checkout.folder / ".venv" / "mark"
    mark.touch()
    assert "requirements.txt list" in checkout.make("serving").stdout
    assert not mark.exists()
    assert checkout.stamp.exists()


def test_a_failed_installation_leaves_no_stamp(checkout: Checkout) -> None:
    checkout.make("serving")
    (checkout.folder / "requirements.txt").write_text("unhashed==1.0\n")
    assert checkout.make("serving").returncode != 0
    assert not checkout.stamp.exists()


def _without_ensurepip(checkout: Checkout) -> None:
    """As on Debian without python3-venv, until the package is there."""
    absent = checkout.folder / "absent"
    absent.mkdir()
    (absent / "ensurepip.py").write_text("raise ModuleNotFoundError('ensurepip')\n")
    checkout.tool("debian", f'PYTHONPATH={absent} exec {checkout.python} "$@"')


def test_as_a_plain_user_without_ensurepip_the_package_is_named(checkout: Checkout) -> None:
    _without_ensurepip(checkout)
    checkout.tool("apt-get", "echo called >&2")
    # Root can be somebody else; nobody else can be root.
    script = "import os; os.geteuid = lambda: 1000; import runpy, sys; sys.argv = sys.argv[1:]; "
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    checkout.tool(
        "plain", f'[ "$1" = -c ] && exec debian "$@"; exec debian -c "{script}{run}" "$@"'
    )
    done = checkout.make("serving", "PYTHON=plain")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0] == "apt-get install python3-venv"
    assert "called" not in done.stderr


def test_as_root_without_ensurepip_the_package_is_installed(checkout: Checkout) -> None:
    _without_ensurepip(checkout)
    checkout.tool("apt-get", f'echo "$@"; [ "$1" = update ] || rm -r {checkout.folder}/absent')
    script = "import os; os.geteuid = lambda: 0; import runpy, sys; sys.argv = sys.argv[1:]; "
    run = "runpy.run_path(sys.argv[0], run_name='__main__')"
    checkout.tool("root", f'[ "$1" = -c ] && exec debian "$@"; exec debian -c "{script}{run}" "$@"')
    done = checkout.make("serving", "PYTHON=root")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[:2] == ["update", "install -y python3-venv"]
    assert checkout.stamp.exists()


def test_settings_reach_the_server_from_the_command_line(checkout: Checkout) -> None:
    done = checkout.make("--dry-run", "run", "PORT=9000")
    assert "exec .venv/bin/python -m keyportal.serve --demo" in done.stdout
    checkout.make("serving")
    shown = "import os; print([os.environ.get(n) for n in ('PORT', 'DATABASE_URL', 'HOST')])"
    package = checkout.folder / "keyportal"
    package.mkdir()
    (package / "serve.py").write_text(shown)
    done = checkout.make("run", "PORT=9000", "DATABASE_URL=sqlite:////x.sqlite3")
    assert "['9000', 'sqlite:////x.sqlite3', None]" in done.stdout


@pytest.mark.parametrize("user", [0, 1000])
def test_proxies_that_the_tests_lack_are_installed_or_named(checkout: Checkout, user: int) -> None:
    checkout.tool("apt-get", 'echo "$@"')
    become = f"import os, runpy; os.geteuid = lambda: {user}; "
    # nginx may be there, where Debian keeps it; Caddy can't be.
    done = subprocess.run(
        [checkout.python, "-c", f"{become}runpy.run_path('.ci/proxies.py', run_name='__main__')"],
        cwd=checkout.folder,
        env={"PATH": str(checkout.tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"apt-get install (nginx-light )?caddy\n", done.stderr)
    asked = re.fullmatch(r"update\ninstall -y (nginx-light )?caddy\n", done.stdout)
    assert asked if user == 0 else done.stdout == ""
