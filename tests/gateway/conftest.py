"""Servers of a test's own, for what would disturb the shared one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.core.cache import cache

from tests.serving import Server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "postgresql: is about PostgreSQL alone")
    config.addinivalue_line("markers", "sqlite: is about SQLite alone")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is about one database alone belongs to the run on that one."""
    other = "sqlite" if settings.IS_POSTGRESQL else "postgresql"
    elsewhere = [item for item in items if item.get_closest_marker(other)]
    items[:] = [item for item in items if item not in elsewhere]
    config.hook.pytest_deselected(items=elsewhere)


@pytest.fixture
def own_server(transactional_db: None, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a Keyportal with settings of its own: `own_server(KEYPORTAL_LOG_LEVEL="DEBUG")`."""
    started: list[Server] = []
    cache.clear()  # It counts failed sign-ins, and is no table that is emptied after a test.

    def own_server(kind: type[Server] = Server, *, workers: int = 1, **environment: str) -> Server:
        started.append(kind(tmp_path, workers=workers, **environment))
        return started[-1].start()

    yield own_server
    for server in started:
        server.stop()
