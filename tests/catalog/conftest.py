"""A server that lists models."""

from collections.abc import Iterator

import pytest

from tests.support.model_list_server import ModelListServer, running


@pytest.fixture
def server() -> Iterator[ModelListServer]:
    with running() as server:
        yield server
