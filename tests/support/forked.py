"""Python programs that the fork server starts, in less than half the time of a new Python."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

CHECKOUT = Path(__file__).parent.parent.parent


class Forked:
    """A program in its own process group. It has what tests use of `subprocess.Popen`."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        folder: Path,
        environment: Mapping[str, str],
        out: IO[bytes],
        err: IO[bytes],
    ) -> None:
        self._arguments = arguments
        self._exit_code: int | None = None
        request = {"arguments": arguments, "folder": str(folder), "environment": dict(environment)}
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            descriptors = [theirs.fileno(), out.fileno(), err.fileno()]
            socket.send_fds(_fork_server(), [json.dumps(request).encode()], descriptors)
        self.pid = int(self._channel.recv(100))

    def poll(self) -> int | None:
        """The exit code, if it has ended."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._wait(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _wait(self, timeout: float | None) -> int | None:
        if self._exit_code is None:
            self._channel.settimeout(timeout)
            with suppress(BlockingIOError, TimeoutError):
                self._exit_code = int(self._channel.recv(100))
                self._channel.close()
        return self._exit_code


def run(
    arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path = CHECKOUT
) -> subprocess.CompletedProcess[str]:
    """Like `subprocess.run` of Python with these arguments."""
    with TemporaryFile() as out, TemporaryFile() as err:
        process = Forked(arguments, folder=folder, environment=environment, out=out, err=err)
        code = process.wait(250)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(
            arguments, code, out.read().decode(), err.read().decode()
        )


@cache
def _fork_server() -> socket.socket:
    """Started once in each process of a test run."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fork_server", str(theirs.fileno())],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # So that Ctrl-C reaches the tests first, which stop the rest.
        )

    @atexit.register
    def stop() -> None:
        ours.close()
        process.wait(60)

    return ours
