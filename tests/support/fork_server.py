"""Runs many Python commands quickly: `python -m tests.support.fork_server`, in the checkout.

Reads JSON from standard input: a list of [arguments, environment]; the arguments are those of
Python, either `-m MODULE ...` or `FILE ...`. Imports what is slow once, then forks for each.
Prints a JSON list of [exit code, standard output, standard error].
"""

import json
import os
import runpy
import sys
import tempfile
import traceback
from pathlib import Path

import psycopg  # noqa: F401


def main() -> None:
    print(json.dumps([run(*command) for command in json.load(sys.stdin)]))  # noqa: T201


def run(arguments: list[str], environment: dict[str, str]) -> tuple[int, str, str]:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        if (pid := os.fork()) == 0:
            for descriptor, file in ((1, out), (2, err)):
                os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
            os.environ.clear()
            os.environ.update(environment)
            os._exit(_run_python(arguments))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, out.read_text(), err.read_text()


def _run_python(arguments: list[str]) -> int:
    """Do what `python ARGUMENTS` does, and return its exit code."""
    is_module = arguments[0] == "-m"
    sys.argv = arguments[1:] if is_module else arguments
    code: object = 0
    try:
        if is_module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        sys.stderr.write(code + "\n")
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 0


if __name__ == "__main__":
    main()
