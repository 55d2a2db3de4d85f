"""Installs and runs one client."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from benchmarks import tools
from tests.clients.programs import PROGRAMS, Program
from tests.support import model_responses

SCRIPTS = Path(__file__).parent / "scripts"
SECONDS = 120


def table(problems: dict[str, str]) -> str:
    rows = ["| Client | Version | Calls | Result |", "|---|---|---|---|"]
    for program in PROGRAMS:
        result = problems[program.name].partition(":")[0] or "works"
        rows.append(f"| {program.name} | {program.version} | {program.calls} | {result} |")
    return "\n".join(rows) + "\n"


def problem(program: Program, values: dict[str, str]) -> str:
    """What went wrong; empty if the program printed the model's answer and ended well."""
    try:
        command = _command(program)
    except tools.NotInstalled as error:
        return f"not installed: {error}"
    with tempfile.TemporaryDirectory(prefix="keyportal-client-") as home:
        values = values | {"home": home}
        for name, text in program.files:
            file = Path(home) / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.format(**values))
        try:
            result = subprocess.run(
                [word.format(**values) for word in command],
                cwd=home,
                env=_environment(program, values),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            return f"took more than {SECONDS} s: {error.output!r:.500} {error.stderr!r:.500}"
    if result.returncode or model_responses.TEXT not in result.stdout:
        return f"exit code {result.returncode}: {result.stdout[-1000:]} {result.stderr[-2000:]}"
    return ""


def _command(program: Program) -> list[str]:
    """Install the program and return its command. Raises `NotInstalled`."""
    kind, _, package = program.package.partition(":")
    name, _, extras = package.rstrip("]").partition("[")
    first, *rest = program.command
    if kind == "npm":
        folder = tools.from_npm(name, program.version, *program.others, runs_scripts=True)
        if first.endswith(".mjs"):
            # Node looks for packages beside the script.
            return ["node", str(shutil.copy(str(SCRIPTS / first), str(folder))), *rest]
        return [str(folder / "node_modules" / ".bin" / first), *rest]
    folder = tools.from_pip(name, program.version, *filter(None, extras.split(",")))
    if first.endswith(".py"):
        # Isolated, because a script may have the name of a package.
        return [str(folder / "python"), "-I", str(SCRIPTS / first), *rest]
    return [str(folder / first), *rest]


def _environment(program: Program, values: dict[str, str]) -> dict[str, str]:
    """Only what the program needs: nothing of this machine's settings reaches it."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": values["home"],
        "URL": values["url"],
        "KEY": values["key"],
        "MODEL": values["model"],
        **{name: text.format(**values) for name, text in program.variables},
    }
