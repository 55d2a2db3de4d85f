"""What is written agrees with what is there."""

import ast
import re
import tomllib
from pathlib import Path

from keyportal.keys import scanning, secret

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
READERS = {"_text", "_number", "_is_on", "_kept_secret", "_networks", "kept_secret"}


def variables_read() -> set[str]:
    """What the code takes from the environment: the first argument of everything that reads it."""
    return {
        name
        for file in (ROOT / "keyportal").rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and _reads_environment(call.func) and call.args
        for name in [_constant(call.args[0])]
        if name
    }


def _reads_environment(function: ast.expr) -> bool:
    text = ast.unparse(function)
    return text.startswith(("env.", "os.environ.", "os.getenv")) or text in READERS


def _constant(argument: ast.expr) -> str:
    value = argument.value if isinstance(argument, ast.Constant) else ""
    return value if isinstance(value, str) and value.isupper() else ""


def make_targets() -> dict[str, str]:
    found = re.findall(
        r"^([a-z]+):[^=#\n]*(?:## (.+))?$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    return {name: text for name, text in found if name not in {"serving", "developing"}}


def test_the_readmes_table_lists_every_variable_and_no_other() -> None:
    documented = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    assert documented == variables_read() - {"DJANGO_SETTINGS_MODULE"}


def test_the_walk_finds_what_settings_read() -> None:
    expected = {"SECRET_KEY", "PORT", "DATABASE_URL", "KEYPORTAL_DATA", "KEYPORTAL_TRUSTED_PROXIES"}
    assert expected <= variables_read()


def test_make_runs_its_checks_without_any_setting_of_the_machine() -> None:
    (listed,) = re.findall(
        r"^CLEAN := env \$\(foreach name,([A-Z_\s\\]+),",
        (ROOT / "Makefile").read_text(),
        re.MULTILINE,
    )
    ours = variables_read() - {"DJANGO_SETTINGS_MODULE"}
    assert set(listed.replace("\\", "").split()) == ours | {"BUILD_NUMBER", "CI"}  # pytest's.


def test_every_make_target_has_a_help_line_and_is_documented() -> None:
    targets = make_targets()
    assert {"run", "test", "check", "format", "requirements"} <= set(targets)
    documents = README + (ROOT / "CONTRIBUTING.md").read_text()
    for name, text in targets.items():
        assert text, f"make {name} has no help line"
        assert name == "help" or f"make {name}" in documents


def test_every_command_is_in_the_readme() -> None:
    commands = (ROOT / "keyportal").glob("*/management/commands/[a-z]*.py")
    assert [c.stem for c in commands if f"`{c.stem}" not in README] == []


def test_the_changelog_has_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert versions[0] == project["version"]


def test_every_file_that_the_documents_name_exists() -> None:
    for document in ("README.md", "SECURITY.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text()
        for path in re.findall(r"`((?:keyportal|tests|templates|static)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{document} names {path}"
        for link in re.findall(r"\]\((?!http|#)([^)]+)\)", text):
            assert (ROOT / link.partition("#")[0]).exists(), f"{document} links {link}"


def test_no_table_says_anything_twice() -> None:
    for document in ("README.md", "SECURITY.md"):
        text = (ROOT / document).read_text()
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            first = [row.split(" | ")[0] for row in table.splitlines()]
            assert len(set(first)) == len(first), f"{document}: {first}"


def test_locks_hold_no_index_link_or_path() -> None:
    for lock in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / lock).read_text()
        assert not re.search(r"^\s*(--(?!hash=)|-[a-z]\b|\.|/)|://|@ ", text, re.MULTILINE), lock


def test_the_format_of_keys_is_described_as_it_is() -> None:
    described = (ROOT / "docs" / "key-format.md").read_text()
    pattern = scanning.github()
    assert f"\n{scanning.regex()}\n" in described
    for field in ("secret_format", "before_secret", "after_secret", "test_string"):
        assert f"| `{pattern[field].replace('|', chr(92) + '|')}` |" in described
    for length in (secret.PUBLIC_LENGTH, secret.SECRET_LENGTH):
        assert re.search(rf"\b{length}\b", described)
