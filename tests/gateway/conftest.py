"""The tests that need Caddy."""

import shutil

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without Caddy, the first of its tests fails and says how to install it; that is enough."""
    if shutil.which("caddy"):
        return
    left_out = [item for item in items if _runs_caddy(item)][1:]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


def _runs_caddy(item: pytest.Item) -> bool:
    names_another = "envoy" in item.nodeid or "traefik" in item.nodeid
    return "test_other_proxies" in item.nodeid and not names_another
