"""The short form of `make faults`, without those faults that other tests cause as well.

Hosts that vanish and locked rows: `test_locked_counters.py`. Nodes that are killed:
`test_lost_calls.py` and `test_a_kill_loses_the_last_second_at_most`. Poolers: `test_pooler.py`.
"""

import tempfile
from pathlib import Path

import pytest

from tests.faults.table import run
from tests.faults.world import running

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
HERE = ("silent", "gone", "replace")


def test_it_bears_what_breaks_in_operation() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="keyportal-faults-") as folder,
        running(Path(folder), short=True) as world,
    ):
        assert run(world, HERE) == []
