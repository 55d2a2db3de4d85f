"""Imports run one way: teams <- activity <- catalog <- keys <- gateway."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "keyportal"
ORDER = ["teams", "activity", "catalog", "keys", "gateway"]
VAGUE = {"utils", "util", "common", "core", "services", "helpers", "mixins", "misc"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions too, with relative names made whole."""
    package = [*file.relative_to(PACKAGE.parent).parent.parts]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield source
            yield from (f"{source}.{alias.name}" for alias in node.names)


def layer(dotted: str) -> int | None:
    """Which app a module is of, as its place in the order; None for none of them."""
    parts = dotted.split(".")
    if parts[0] == "keyportal" and len(parts) > 1 and parts[1] in ORDER:
        return ORDER.index(parts[1])
    return None


def named(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("file", MODULES, ids=named)
def test_imports_run_one_way(file: Path) -> None:
    own = layer(named(file))
    if own is None:
        return
    upwards = [
        name for name in imported(file) if (found := layer(name)) is not None and found > own
    ]
    assert not upwards


def test_the_test_sees_imports_of_every_kind(tmp_path: Path) -> None:
    seen = set(imported(PACKAGE / "keys" / "models.py"))
    assert {
        "keyportal.teams.models",
        "keyportal.teams.models.Team",
        "keyportal.keys.secret",
    } <= seen
    inside = set(imported(PACKAGE / "activity" / "apps.py"))
    assert "keyportal.activity.signals" in inside
    assert {layer(name) for name in seen} >= {0, 1, 3}


def test_every_app_has_its_place() -> None:
    apps = {file.parent.name for file in MODULES if file.name == "apps.py"}
    assert apps == set(ORDER)


def test_nothing_has_a_vague_name() -> None:
    names = {part for file in MODULES for part in named(file).split(".")}
    assert not names & VAGUE
