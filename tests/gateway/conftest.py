"""Servers of a test's own, for what would disturb the shared one."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.serving import Server


@pytest.fixture
def own_server(transactional_db: None, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a Keyportal with settings of its own: `own_server(KEYPORTAL_LOG_LEVEL="DEBUG")`."""
    started: list[Server] = []

    def own_server(*, workers: int = 1, **environment: str) -> Server:
        started.append(Server(tmp_path, workers=workers, **environment))
        return started[-1].start()

    yield own_server
    for server in started:
        server.stop()
