"""`make` before anything is installed, and on machines where something is missing."""

import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.long
ROOT = Path(__file__).parent.parent
MAKE = shutil.which("make") or "make"
# A fake Python that creates environments and installs instantly, for the Makefile's calls.
STAND_IN = """\
case "$*" in
*sys.version*) echo "{version}" ;;
*ensurepip*) [ -z "{without}" ] || [ ! -e "{without}" ] ;;
*"-m venv --clear .venv") rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"-m pip install"*) {pip} ;;
*"-m keyportal.serve --demo") echo "PORT=$PORT DATABASE_URL=$DATABASE_URL HOST=$HOST" >started ;;
*) echo "Not expected: $*" >&2; exit 1 ;;
esac"""
FAKE_PIP = "! grep unhashed requirements.txt >&2"
INSTALLING = "Installing what {} lists into .venv/ ...\n".format
INSTALLING_BOTH = "Installing what requirements.txt and requirements-dev.txt list into .venv/ ...\n"


class Checkout:
    """A fresh checkout with empty lock files, so that pip downloads nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = folder / "tools"
        self.tools.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        shutil.copytree(ROOT / ".ci", folder / ".ci")
        for lock in ("requirements.txt", "requirements-dev.txt"):
            (folder / lock).write_text("# Nothing.\n")
        self.python("3.11.2")

    def tool(self, name: str, script: str) -> None:
        """Create a command that is first on the PATH."""
        file = self.tools / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)

    def python(self, version: str, *, without: Path | str = "", pip: str = FAKE_PIP) -> None:
        """Replace `python3`. It lacks venv while the file `without` exists."""
        self.tool("python3", STAND_IN.format(version=version, without=without, pip=pip))

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [MAKE, *arguments],
            cwd=self.folder,
            env={"PATH": f"{self.tools}:{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            timeout=250,
        )

    def run(self, *arguments: str) -> str:
        """The output of a successful `make run` before the server starts."""
        done = self.make("run", *arguments)
        assert done.returncode == 0, done.stderr
        assert self.started
        return done.stdout + done.stderr

    @property
    def started(self) -> str:
        """The variables of the server."""
        return (self.folder / "started").read_text()

    def mark(self) -> Path:
        """Create a file that is gone if the environment is created again."""
        mark = self.folder / ".venv" / "mark"
        mark.touch()
        return mark


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "checkout")


def require_one_sentence(done: subprocess.CompletedProcess[str], sentence: str) -> None:
    assert done.returncode != 0
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("make: ***")] == [sentence]


def test_make_alone_lists_the_targets(checkout: Checkout) -> None:
    listed = checkout.make().stdout
    for target in ("run", "test", "check", "format", "requirements"):
        assert f"make {target} " in listed


@pytest.mark.parametrize("version", ["2.7.18", "3.9.18", "3.10.9"])
def test_old_python_is_refused(checkout: Checkout, version: str) -> None:
    checkout.python(version)
    require_one_sentence(
        checkout.make("run"),
        f"Keyportal needs Python 3.11 or newer, and python3 is {version}: "
        f"choose another with `make PYTHON=python3.11 run`.",
    )
    assert not (checkout.folder / ".venv").exists()


def test_missing_python_is_refused(checkout: Checkout) -> None:
    require_one_sentence(
        checkout.make("run", "PYTHON=nowhere"),
        "Keyportal needs Python 3.11 or newer, and nowhere is not there: "
        "choose another with `make PYTHON=python3.11 run`.",
    )


@pytest.mark.parametrize("version", ["3.11.0", "3.12.13", "3.13.5", "3.14.2"])
def test_supported_python_prints_nothing(checkout: Checkout, version: str) -> None:
    checkout.python(version)
    assert checkout.run() == INSTALLING("requirements.txt")


@pytest.mark.parametrize("version", ["3.15.0a1", "3.20.1"])
def test_newer_python_prints_a_warning(checkout: Checkout, version: str) -> None:
    checkout.python(version)
    warning = f"Keyportal is tested with Python 3.11 to 3.14; trying {version}.\n"
    assert checkout.run() == INSTALLING("requirements.txt") + warning
    assert checkout.run() == ""


def test_environment_is_created_once_and_again_when_a_lock_changes(checkout: Checkout) -> None:
    assert checkout.run() == INSTALLING("requirements.txt")
    assert checkout.run() == ""

    mark = checkout.mark()
    (checkout.folder / "requirements.txt").write_text("# Still nothing.\n")
    assert checkout.run() == INSTALLING("requirements.txt")
    assert mark.exists()

    (checkout.folder / ".venv/bin/ruff").symlink_to("/bin/true")
    assert INSTALLING_BOTH in checkout.make("format").stdout
    assert "Installing" not in checkout.make("format").stdout
    assert checkout.run() == ""

    shutil.rmtree(checkout.folder / ".venv")
    # Fails, because there is no ruff in it. What was installed is not installed again.
    assert checkout.make("format").stdout.startswith(INSTALLING_BOTH)
    assert checkout.run() == ""


def test_another_python_version_recreates_the_environment(checkout: Checkout) -> None:
    checkout.run()
    mark = checkout.mark()
    checkout.python("3.12.1")
    assert checkout.run() == INSTALLING("requirements.txt")
    assert not mark.exists()


def test_environment_without_interpreter_is_recreated(checkout: Checkout) -> None:
    checkout.run()
    mark = checkout.mark()
    (checkout.folder / ".venv/bin/python").unlink()
    assert checkout.run() == INSTALLING("requirements.txt")
    assert not mark.exists()
    assert checkout.run() == ""


def test_failed_installation_is_retried(checkout: Checkout) -> None:
    (checkout.folder / "requirements.txt").write_text("unhashed==1.0\n")
    for _ in range(2):
        done = checkout.make("run")
        assert done.returncode != 0
        assert done.stdout == INSTALLING("requirements.txt")


def test_package_without_a_wheel_is_not_installed(checkout: Checkout) -> None:
    """With the real pip, a package without a wheel, and a compiler that fails."""
    setup = b"import setuptools; setuptools.setup(name='slow', version='1')"
    source = checkout.folder / "slow-1.tar.gz"
    with tarfile.open(source, "w:gz") as archive:
        entry = tarfile.TarInfo("slow-1/setup.py")
        entry.size = len(setup)
        archive.addfile(entry, io.BytesIO(setup))
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    (checkout.folder / "requirements.txt").write_text(
        f"--no-index --find-links {checkout.folder}\nslow==1 --hash=sha256:{digest}\n"
    )
    elsewhere = checkout.folder / "installed"
    checkout.python("3.11.2", pip=f'PIP_TARGET="{elsewhere}" exec "{sys.executable}" "$@"')
    done = checkout.make("run", CC="false")
    assert done.returncode != 0
    assert "No matching distribution found for slow==1" in done.stderr


def _without_venv(checkout: Checkout, user: int) -> None:
    """Like Debian without python3-venv, until the package is installed."""
    absent = checkout.folder / "absent"
    absent.touch()
    checkout.python("3.11.2", without=absent)
    checkout.tool("id", f"echo {user}")
    checkout.tool("apt-get", f'echo "$@"; [ "$1" = update ] || rm {absent}')


def test_missing_venv_module_names_the_package(checkout: Checkout) -> None:
    _without_venv(checkout, user=1000)
    require_one_sentence(
        checkout.make("run"),
        "python3 lacks its module venv: install it with `apt-get install python3-venv`, "
        "or choose another Python with `make PYTHON=python3.11 run`.",
    )


def test_root_without_venv_installs_the_package(checkout: Checkout) -> None:
    _without_venv(checkout, user=0)
    steps = ["update", "install -y python3-venv", INSTALLING("requirements.txt").rstrip()]
    assert checkout.run().splitlines() == steps


def test_settings_reach_the_server_from_the_command_line(checkout: Checkout) -> None:
    checkout.run("PORT=9000", "DATABASE_URL=sqlite:////x.sqlite3")
    assert checkout.started == "PORT=9000 DATABASE_URL=sqlite:////x.sqlite3 HOST=\n"


@pytest.mark.parametrize("user", [0, 1000])
def test_proxies_that_the_tests_lack_are_installed_or_named(checkout: Checkout, user: int) -> None:
    checkout.tool("apt-get", 'echo "$@"')
    become = f"import os, runpy; os.geteuid = lambda: {user}; "
    # Where Debian keeps them, nginx and pgbouncer may be there; the others can't be.
    done = subprocess.run(
        [sys.executable, "-c", f"{become}runpy.run_path('.ci/proxies.py', run_name='__main__')"],
        cwd=checkout.folder,
        env={"PATH": str(checkout.tools)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    missing = r"(nginx-light )?caddy (pgbouncer )?prometheus\n"
    assert re.fullmatch(f"apt-get install {missing}", done.stderr)
    asked = re.fullmatch(rf"update\ninstall -y --no-install-recommends {missing}", done.stdout)
    assert asked if user == 0 else done.stdout == ""
