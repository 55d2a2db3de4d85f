"""The short form of `make faults`, without those faults that other tests cause as well."""

import tempfile
from pathlib import Path

import pytest

from tests.faults.table import run
from tests.faults.world import running

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
HERE = ("vanish", "lock", "silent", "gone", "replace", "kill")


def test_it_bears_what_breaks_in_operation() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="keyportal-faults-") as folder,
        running(Path(folder), short=True) as world,
    ):
        assert run(world, HERE) == []
