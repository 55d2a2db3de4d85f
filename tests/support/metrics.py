"""Reads `/metrics` of a running server, as Prometheus does."""

from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

Scrape = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Each sample by its name and labels."""


def scrape(port: int) -> Scrape:
    """Labels without a value are left out, as Prometheus does."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset((name, value) for name, value in sample.labels.items() if value)): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Scrape, name: str, **labels: str) -> float:
    """The sum of the samples that have these labels."""
    wanted = labels.items()
    return sum(
        number for (other, pairs), number in samples.items() if other == name and wanted <= pairs
    )
