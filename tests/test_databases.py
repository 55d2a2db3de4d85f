"""Which tests the run on PostgreSQL may leave out."""

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MARKED = [
    file
    for file in TESTS.rglob("test_*.py")
    if "mark.any_database" in file.read_text() and file != Path(__file__)
]
# What depends on the database: SQL of its own, locks, races, constraints, and whatever tells the
# two databases apart.
DEPENDS = (
    "transaction=True",
    ".cursor()",
    "connection.vendor",
    "IS_POSTGRESQL",
    "IntegrityError",
    "select_for_update",
    "tests.keys.crowd",
)


@pytest.mark.parametrize("file", MARKED, ids=lambda file: file.stem)
def test_a_module_that_runs_on_sqlite_alone_tests_nothing_that_can_differ(file: Path) -> None:
    text = file.read_text()
    assert [word for word in DEPENDS if word in text] == []


def test_what_a_database_decides_runs_on_both() -> None:
    decided = {
        *("admission", "append_only", "canary", "cleaning", "limits", "metering", "revocation"),
        *("change_races", "expiry_races", "key_limit_races", "races"),
        *("leak_wire", "limits_wire", "metering_wire", "narrowing", "rotation_wire", "wire"),
    }
    names = {file.stem.removeprefix("test_") for file in TESTS.rglob("test_*.py")}
    assert decided <= names
    assert not decided & {file.stem.removeprefix("test_") for file in MARKED}
