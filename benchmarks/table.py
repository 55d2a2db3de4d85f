"""The result: a table in Markdown, a row as soon as it is known."""

import statistics
from collections.abc import Iterable


def begin(title: str) -> None:
    print(f"\n## {title}\n\n| what | measured |\n|---|---|", flush=True)  # noqa: T201


def row(what: str, measured: str) -> None:
    print(f"| {what} | {measured} |", flush=True)  # noqa: T201


def medians(rounds: Iterable[tuple[float, ...]]) -> tuple[float, ...]:
    """Of each column."""
    return tuple(statistics.median(column) for column in zip(*rounds, strict=True))


def median(rounds: Iterable[float]) -> float:
    return statistics.median(rounds)


def tell(sentence: str) -> None:
    print(f"\n{sentence}", flush=True)  # noqa: T201
