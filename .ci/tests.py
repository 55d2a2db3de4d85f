"""Run the tests on SQLite and on PostgreSQL at the same time: many of them wait, for a browser, a
time limit or a lock, and one run alone leaves a third of the processor time unused.

The output of PostgreSQL's run follows that of the other one.
"""
# ruff: noqa: INP001, T201

import shutil
import subprocess
import sys
import tempfile

# Each process gets the next test when it has nearly none left. With more at a time, one of them
# still had a hundred seconds of long tests when the others had nothing left to do.
PYTEST = [sys.executable, "-m", "pytest", "--maxschedchunk", "1"]
# SQLite's run has nine tenths of the tests, and all that need a browser.
SQLITE = [*PYTEST, "-n", "3"]
POSTGRESQL = [sys.executable, "-m", "tests.postgresql", *PYTEST, "-n", "1"]
# Their outcome is the same. The cache, which `pytest --last-failed` reads, is the other run's.
POSTGRESQL += ["--ignore=tests/browser", "--ignore=tests/test_make.py", "-p", "no:cacheprovider"]


def main() -> int:
    with tempfile.TemporaryFile() as output:
        print("The tests on SQLite. Those on PostgreSQL run too, and are told later.", flush=True)
        postgresql = subprocess.Popen(POSTGRESQL, stdout=output, stderr=subprocess.STDOUT)
        codes = {"SQLite": _wait(subprocess.Popen(SQLITE)), "PostgreSQL": _wait(postgresql)}
        print("\nThe tests on PostgreSQL.", flush=True)
        output.seek(0)
        shutil.copyfileobj(output, sys.stdout.buffer)
    for name, code in codes.items():
        print(f"{name}: {'passed' if code == 0 else f'FAILED, exit code {code}'}")
    return 1 if any(codes.values()) else 0


def _wait(run: subprocess.Popen[bytes]) -> int:
    while True:
        try:
            return run.wait()
        except KeyboardInterrupt:  # It has reached the run as well, which stops what it started.
            continue


if __name__ == "__main__":
    sys.exit(main())
