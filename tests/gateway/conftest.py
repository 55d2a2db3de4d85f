"""Servers of a test's own, for what would disturb the shared one."""

import shutil

import pytest
from django.conf import settings


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "postgresql: is about PostgreSQL alone")
    config.addinivalue_line("markers", "sqlite: is about SQLite alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is about one database alone belongs to the run on that one."""
    other = "sqlite" if settings.IS_POSTGRESQL else "postgresql"
    elsewhere = [item for item in items if item.get_closest_marker(other)]
    if not shutil.which("caddy"):
        # The first of the tests that run it fails, and says how to install it; that is enough.
        elsewhere += [item for item in items if _runs_caddy(item)][1:]
    items[:] = [item for item in items if item not in elsewhere]
    config.hook.pytest_deselected(items=elsewhere)


def _runs_caddy(item: pytest.Item) -> bool:
    return "test_other_proxies" in item.nodeid and "envoy" not in item.nodeid
