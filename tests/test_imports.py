"""Imports run one way: teams <- activity <- catalog <- keys <- notifications <- gateway, and api
beside it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "keyportal"
ORDER = ["teams", "activity", "catalog", "keys", "notifications"]
# Programs that call and programs that manage have a door each; neither knows of the other's.
BESIDE = ["gateway", "api"]
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


def app(dotted: str) -> str | None:
    """Which app a module is of; None for none of them."""
    parts = dotted.split(".")
    if parts[0] == "keyportal" and len(parts) > 1 and parts[1] in ORDER + BESIDE:
        return parts[1]
    return None


def may_import(name: str) -> set[str]:
    """The apps that modules of this one may import from, which it is one of."""
    below = ORDER if name in BESIDE else ORDER[: ORDER.index(name)]
    return {*below, name}


def named(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)


@pytest.mark.parametrize("file", MODULES, ids=named)
def test_imports_run_one_way(file: Path) -> None:
    own = app(named(file))
    if own is None:
        return
    imports = {name: found for name in imported(file) if (found := app(name)) is not None}
    assert not [name for name, found in imports.items() if found not in may_import(own)]


def test_the_gateway_and_the_api_know_nothing_of_each_other() -> None:
    assert may_import("gateway") == {*ORDER, "gateway"}
    assert may_import("api") == {*ORDER, "api"}
    assert may_import("catalog") == {"teams", "activity", "catalog"}


def test_the_test_sees_imports_of_every_kind(tmp_path: Path) -> None:
    seen = set(imported(PACKAGE / "keys" / "models.py"))
    assert {
        "keyportal.teams.models",
        "keyportal.teams.models.Team",
        "keyportal.keys.keystring",
    } <= seen
    inside = set(imported(PACKAGE / "activity" / "apps.py"))
    assert "keyportal.activity.signals" in inside
    assert {app(name) for name in seen} >= {"teams", "activity", "keys"}


def test_every_app_has_its_place() -> None:
    apps = {file.parent.name for file in MODULES if file.name == "apps.py"}
    assert apps == {*ORDER, *BESIDE}


def test_nothing_has_a_vague_name() -> None:
    names = {part for file in MODULES for part in named(file).split(".")}
    assert not names & VAGUE


def test_no_private_module_of_allauth_is_imported() -> None:
    """They change without notice from one release to the next."""
    names = {name for file in MODULES for name in imported(file) if name.startswith("allauth")}
    assert "allauth.core.ratelimit" in names
    assert not [name for name in names if ".internal" in name or "._" in name]


def test_the_http_client_knows_nothing_of_the_rest() -> None:
    own = {f"keyportal.gateway.{name}" for name in ("client", "connection", "messages")}
    for name in own:
        file = PACKAGE.parent / f"{name.replace('.', '/')}.py"
        modules = {one for one in imported(file) if one.startswith("keyportal")}
        assert all(one in own or one.rpartition(".")[0] in own for one in modules), modules
