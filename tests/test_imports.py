"""Imports go one way, without circles, and every folder has a docstring."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "keyportal"
# From the lowest layer: a package imports only from lower layers.
LAYERS = [
    {"http", "database"},
    {"teams"},
    {"audit"},
    {"usage", "catalog", "profile"},
    {"keys"},
    {"notifications"},
    {"leaks", "people"},
    {"gateway", "api"},
    {"scheduler"},
    {"server"},
    {"operators"},
    {"asgi", "serve", "settings", "urls", "checks", "apps"},
]
# They import no app, so every module may import them.
LEAVES = {"keyportal.data_folder", "keyportal.environment", "keyportal.keys.keystring"}
MAX_MODULES = 18
VAGUE = {"utils", "util", "common", "core", "services", "helpers", "mixins", "misc"}


def _dotted(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _dotted(file): file
    for file in sorted(PACKAGE.rglob("*.py"))
    if "migrations" not in file.parts and file != PACKAGE / "__init__.py"
}


@cache
def imports_of(file: Path) -> list[ast.Import | ast.ImportFrom]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imported(file: Path) -> Iterator[str]:
    """Every module of ours that a file imports, inside functions too."""
    for node in imports_of(file):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [_module_of(node.module or "", alias.name) for alias in node.names]
        yield from (name for name in names if name in MODULES)


def _module_of(source: str, name: str) -> str:
    return f"{source}.{name}" if f"{source}.{name}" in MODULES else source


def imported_names(file: Path) -> Iterator[str]:
    """Every module and name that a file imports from other packages."""
    for node in imports_of(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        else:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> int:
    package = module.split(".")[1]
    return next(number for number, names in enumerate(LAYERS) if package in names)


def test_imports_go_one_way() -> None:
    """One test, because each process that runs a test of imports parses all files for it."""

    def is_allowed(module: str, other: str) -> bool:
        is_own = other.split(".")[1] == module.split(".")[1]
        return is_own or other in LEAVES or layer(other) < layer(module)

    lower = [name for name in MODULES.keys() - LEAVES if layer(name) < len(LAYERS) - 1]
    assert len(lower) > 300
    pairs = [(name, other) for name in lower for other in imported(MODULES[name])]
    assert [pair for pair in pairs if not is_allowed(*pair)] == []

    try:
        TopologicalSorter(
            {name: {*imported(file)} - {name} for name, file in MODULES.items()}
        ).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))

    of_leaves = [(leaf, other) for leaf in LEAVES for other in imported(MODULES[leaf])]
    assert [(leaf, other) for leaf, other in of_leaves if other not in LEAVES] == []

    client = "keyportal.gateway.http_client."
    clients = [name for name in MODULES if name.startswith(client)]
    assert len(clients) >= 3
    of_client = [(name, other) for name in clients for other in imported(MODULES[name])]
    assert [pair for pair in of_client if not pair[1].startswith(client)] == []

    nodes = [node for file in MODULES.values() for node in imports_of(file)]
    relative = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level]
    assert not relative

    # Private modules of allauth change without notice from one release to the next.
    names = {name for file in MODULES.values() for name in imported_names(file)}
    allauth = {name for name in names if name.startswith("allauth")}
    assert any(name.startswith("allauth.core.ratelimit") for name in allauth)
    assert not [name for name in allauth if ".internal" in name or "._" in name]


def test_imports_of_every_kind_are_found() -> None:
    from_package = {*imported(MODULES["keyportal.keys.changes"])}
    assert {"keyportal.keys.models", "keyportal.teams.models", "keyportal.audit.models"} <= (
        from_package
    )
    assert "keyportal.audit.receivers" in {*imported(MODULES["keyportal.audit.apps"])}


def _folders() -> dict[Path, int]:
    """Our folders, and the number of modules in each."""
    counts: dict[Path, int] = {}
    for file in MODULES.values():
        counts[file.parent] = counts.get(file.parent, 0) + (file.name != "__init__.py")
    del counts[PACKAGE]
    return counts


def test_no_folder_has_too_many_modules() -> None:
    assert {str(folder): count for folder, count in _folders().items() if count > MAX_MODULES} == {}


def test_every_folder_has_a_docstring() -> None:
    files = [folder / "__init__.py" for folder in _folders() if folder.name != "commands"]
    assert [file for file in files if not ast.get_docstring(ast.parse(file.read_text()))] == []


def test_root_contains_only_entry_points() -> None:
    names = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__"}
    assert names == LAYERS[-1] | {"data_folder", "environment"}


def test_no_module_has_a_vague_name() -> None:
    assert not VAGUE & {part for module in MODULES for part in module.split(".")}
