"""`python -m benchmarks`: run each measurement and print a table in Markdown."""

import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from benchmarks import servers
from benchmarks.load import Load, fire
from benchmarks.servers import Server

ROUNDS = 3
SECONDS = 5.0
CONNECTIONS = 32


def main() -> None:
    database = (
        "PostgreSQL" if os.environ.get("DATABASE_URL", "").startswith("postgres") else "SQLite"
    )
    print(f"\n{database}\n\n| what | measured |\n|---|---|")  # noqa: T201
    with (
        servers.upstream() as upstream,
        servers.keyportal(upstream.url) as (gateway, key, model),
        servers.nginx_gateway(upstream.url, key) as nginx,
    ):
        row("memory of the worker at rest", f"{gateway.resident_mib():.0f} MiB")
        throughput(gateway, nginx, key, model)
        lone_request(gateway, upstream, key, model)
        long_prompt(gateway, key, model)
        under_attack(gateway, key, model)
        row("memory of the worker afterwards", f"{gateway.resident_mib():.0f} MiB")


def row(what: str, measured: str) -> None:
    print(f"| {what} | {measured} |", flush=True)  # noqa: T201


class Turn(NamedTuple):
    """What a server did in one turn."""

    per_second: float
    cpu_seconds_each: float


def throughput(gateway: Server, nginx: Server, key: str, model: str) -> None:
    """In turns, so that whatever else the machine does meets both alike."""

    def turn(server: Server) -> Turn:
        before = server.cpu_seconds()
        load = served(fire(server.url, key, model, connections=CONNECTIONS, seconds=SECONDS))
        used = server.cpu_seconds() - before
        return Turn(load.per_second, used / (load.per_second * SECONDS))

    turns = [(turn(gateway), turn(nginx)) for _ in range(ROUNDS)]
    ours, theirs = (
        Turn(*map(statistics.median, zip(*of, strict=True))) for of in zip(*turns, strict=True)
    )
    row(
        "requests/s on one core, against nginx",
        f"{ours.per_second:.0f} / {theirs.per_second:.0f} = "
        f"{ours.per_second / theirs.per_second:.3f}",
    )
    cost, floor = ours.cpu_seconds_each * 1e6, theirs.cpu_seconds_each * 1e6
    row(
        "processor time of nginx a request, against ours",
        f"{floor:.0f} µs / {cost:.0f} µs = {floor / cost:.3f}",
    )


def lone_request(gateway: Server, upstream: Server, key: str, model: str) -> None:
    def median(server: Server) -> float:
        return served(fire(server.url, key, model, connections=1, seconds=2)).median_ms

    added = [median(gateway) - median(upstream) for _ in range(ROUNDS)]
    row("added to a lone request, median", f"{statistics.median(added):.2f} ms")


def long_prompt(gateway: Server, key: str, model: str) -> None:
    def median(prompt: int) -> float:
        load = fire(gateway.url, key, model, connections=1, seconds=2, prompt=prompt)
        return served(load).median_ms

    more = [median(2**20) - median(2**10) for _ in range(ROUNDS)]
    row("1 MiB prompt against 1 KiB", f"{statistics.median(more):.2f} ms more")


def under_attack(gateway: Server, key: str, model: str) -> None:
    """Half of the connections send good keys, half send keys of one bad kind."""
    half = CONNECTIONS // 2
    for kind, bad in (("mistyped", key[:-1] + "?"), ("unknown", unknown_key())):
        shares = []
        for _ in range(ROUNDS):
            with ThreadPoolExecutor(1) as attacker:
                attack = attacker.submit(
                    fire, gateway.url, bad, model, connections=half, seconds=SECONDS
                )
                load = served(fire(gateway.url, key, model, connections=half, seconds=SECONDS))
                shares.append((load.per_second, attack.result().per_second))
        good, refused = map(statistics.median, zip(*shares, strict=True))
        row(
            f"good calls/s while {kind} keys are fired", f"{good:.0f}, beside {refused:.0f} refused"
        )


def unknown_key() -> str:
    """Well-formed, but never issued."""
    make = "from keyportal.keys import secret; print(secret.generate().text)"
    environment = os.environ | {"SECRET_KEY": "x", "DJANGO_SETTINGS_MODULE": "keyportal.settings"}
    environment["KEYPORTAL_CREDENTIAL_KEYS"] = "x"
    done = subprocess.run(
        [sys.executable, "-c", make], env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def served(load: Load) -> Load:
    """A figure for refusals would say nothing."""
    if load.refused:
        raise RuntimeError(f"{load.refused} calls were not served.")
    return load


if __name__ == "__main__":
    main()
