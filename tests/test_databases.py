"""Which tests the run on PostgreSQL may leave out."""

from pathlib import Path

from tests.conftest import is_for_any_database

TESTS = Path(__file__).parent
MARKED = [file for file in TESTS.rglob("test_*.py") if is_for_any_database(file)]
# Signs that a test depends on the database: SQL, locks, races, constraints, the vendor.
DATABASE_WORDS = (
    "transaction=True",
    ".cursor()",
    "connection.vendor",
    "IS_POSTGRESQL",
    "IntegrityError",
    "select_for_update",
    "tests.support.concurrency",
)


def test_module_that_runs_only_on_sqlite_does_not_depend_on_the_database() -> None:
    assert MARKED
    signs = [(_name(file), word) for file in MARKED for word in DATABASE_WORDS]
    assert [(name, word) for name, word in signs if word in _text(name)] == []


def test_database_tests_run_on_both() -> None:
    names_on_both = {
        *("api/test_canary", "api/v1/test_races", "api/framework/test_wire"),
        *("audit/test_append_only", "notifications/test_reminder_races"),
        *("keys/test_change_races", "keys/models/test_key_limit_races"),
        *("gateway/test_canary", "gateway/test_wire"),
        *(f"gateway/admission/test_{name}" for name in ("batcher", "limits", "limits_wire")),
        *(f"gateway/admission/test_{name}" for name in ("leak_wire", "narrowing", "revocation")),
        "gateway/admission/test_rotation_wire",
        *(f"gateway/metering/test_{name}" for name in ("meter", "metering_wire", "retention")),
    }
    names = {_name(file) for file in TESTS.rglob("test_*.py")}
    assert names_on_both <= names
    assert not names_on_both & {_name(file) for file in MARKED}


def _text(name: str) -> str:
    return (TESTS / f"{name}.py").read_text()


def _name(file: Path) -> str:
    return str(file.relative_to(TESTS).with_suffix(""))
