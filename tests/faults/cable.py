"""A cable between a node and PostgreSQL that can be pulled: TCP goes silent, and no side is told.

A relay to PostgreSQL runs in a network namespace of its own, which a pair of virtual devices
connects with ours. That needs root and iproute2.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Of the range for tests between networks (RFC 2544). Some hosts use those for documentation.
HERE, THERE = "198.18.73.1", "198.18.73.2"
NAME = f"keyportal-{os.getpid()}"
DEVICE, FAR_DEVICE = f"kpa{os.getpid()}", f"kpb{os.getpid()}"


@cache
def why_not() -> str:
    """Why there can be no cable; empty if there can."""
    if os.geteuid() != 0:
        return "only root can make network namespaces"
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    routes = subprocess.run(["ip", "route", "show", "match", HERE], capture_output=True, text=True)
    if any(not line.startswith("default ") for line in routes.stdout.splitlines()):
        return f"{HERE} is an address in use here"
    result = subprocess.run(["ip", "netns", "add", NAME], capture_output=True, text=True)
    if result.returncode == 0:
        _ip("netns", "delete", NAME)
    return result.stderr.strip()


class Cable:
    def __init__(self, port: int) -> None:
        self.url = f"postgresql://postgres@{THERE}:{port}/postgres"

    def pull(self) -> None:
        _ip("-netns", NAME, "link", "set", FAR_DEVICE, "down")

    def plug(self) -> None:
        _ip("-netns", NAME, "link", "set", FAR_DEVICE, "up")


@contextmanager
def plugged(socket: Path) -> Iterator[Cable]:
    """`socket` is PostgreSQL's."""
    _ip("netns", "add", NAME)
    try:
        _ip("link", "add", DEVICE, "type", "veth", "peer", "name", FAR_DEVICE, "netns", NAME)
        _ip("address", "add", f"{HERE}/30", "dev", DEVICE)
        _ip("link", "set", DEVICE, "up")
        _ip("-netns", NAME, "address", "add", f"{THERE}/30", "dev", FAR_DEVICE)
        _ip("-netns", NAME, "link", "set", FAR_DEVICE, "up")
        relay = [sys.executable, "-m", "tests.support.silent_relay", THERE, str(socket)]
        command = ["ip", "netns", "exec", NAME, *relay]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                yield Cable(int(process.stdout.readline()))
            finally:
                process.kill()
    finally:
        _ip("netns", "delete", NAME)  # Its device, and ours with it.


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
