"""Prints the results as a table in Markdown, each row as soon as it is measured."""

import statistics
from collections.abc import Iterable


def begin(title: str) -> None:
    print(f"\n## {title}\n\n| what | measured |\n|---|---|", flush=True)  # noqa: T201


def row(name: str, value: str) -> None:
    print(f"| {name} | {value} |", flush=True)  # noqa: T201


def medians(rounds: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """The median of each column."""
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))


def median(rounds: Iterable[float]) -> float:
    return statistics.median(rounds)


def note(text: str) -> None:
    print(f"\n{text}", flush=True)  # noqa: T201
