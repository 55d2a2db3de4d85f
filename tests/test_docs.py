"""The documentation agrees with the code: links, commands, options, variables and addresses."""

import argparse
import ast
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.urls import Resolver404, resolve

import keyportal
from keyportal.api.urls import OPERATIONS
from keyportal.gateway.aliases import find
from keyportal.gateway.endpoints import ENDPOINTS, KEY_PATH, MODELS_PATH
from keyportal.gateway.forward_auth.app import VERIFY_PATH as VERIFY
from keyportal.keys import keystring
from keyportal.leaks import scanner_rules
from keyportal.server.health import HEALTH_PATHS
from tests.support.cases import case

ROOT = Path(__file__).parent.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for pattern in ("*.md", "docs/**/*.md", "deploy/*.md", "benchmarks/*.md")
    for path in sorted(ROOT.glob(pattern))
}
README, CLI = PAGES["README.md"], PAGES["docs/cli.md"]
MAKEFILE = (ROOT / "Makefile").read_text()
BASH = shutil.which("bash") or "bash"
READERS = re.findall(
    r"^def (read_\w+)", (ROOT / "keyportal/environment.py").read_text(), re.MULTILINE
)
# Of every Django command, and in no need of a description of its own.
COMMON_OPTIONS = {
    "--help",
    "--version",
    "--verbosity",
    "--settings",
    "--pythonpath",
    "--traceback",
    "--no-color",
    "--force-color",
    "--skip-checks",
}
DJANGO_COMMANDS = {"changepassword"}
# Folders of a machine, not addresses.
FOLDERS = ("/data", "/tmp", "/srv/", "/var/", "/etc/")
PREFIXES = {"/v1/", "/openai/v1/", "/api/", "/api/v1/", "/api/scim/v2"}


def prose_of(text: str) -> str:
    """Without fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def code_of(text: str) -> list[str]:
    """Texts in single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", prose_of(text))


def blocks_of(text: str, language: str = r"\w*") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def section(text: str, heading: str) -> str:
    """The text from this second-level heading to the next one."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]


def rows_of(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in a text."""
    for line in re.findall(r"^\| (.*) \|$", text, re.MULTILINE):
        yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]


# Links.


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub creates for headings."""
    headings = re.findall(r"^#+ (.+)$", prose_of(text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_has_a_target() -> None:
    for name, text in PAGES.items():
        page = ROOT / name
        for link in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
            path, _, anchor = link.partition("#")
            target = page.parent.joinpath(path).resolve() if path else page
            assert target.exists(), f"{name} links {link}"
            if anchor:
                assert anchor in anchors_of(target.read_text()), f"{name} links {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached, waiting = set(), ["README.md"]
    while waiting:
        name = waiting.pop()
        reached.add(name)
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+\.md)", PAGES[name]):
            target = str((ROOT / name).parent.joinpath(link).resolve().relative_to(ROOT))
            if target not in reached:
                waiting.append(target)
    assert reached == set(PAGES)


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_every_file_that_a_page_names_exists() -> None:
    """Paths of modules are written from the repository's root, or below `keyportal/`."""
    packages = {path.name for path in (ROOT / "keyportal").iterdir() if path.is_dir()}
    tops = packages | {"keyportal", "tests", "templates", "static", "deploy", "benchmarks"}
    named = {(name, code) for name, text in PAGES.items() for code in code_of(text)}
    ours = {
        (name, code)
        for name, code in named
        if re.fullmatch(r"\w+/[\w./-]*", code) and code.partition("/")[0] in tops
    }
    places = (ROOT, ROOT / "keyportal")
    assert [one for one in ours if not any((place / one[1]).exists() for place in places)] == []


def test_no_table_has_two_rows_for_one_thing() -> None:
    for name, text in PAGES.items():
        for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
            first = [row.split(" | ")[0] for row in table.splitlines()]
            assert len(set(first)) == len(first), f"{name}: {first}"


def test_every_test_in_the_asvs_table_exists() -> None:
    rows = [row for row in PAGES["docs/asvs.md"].splitlines() if ".py`" in row]
    assert len(rows) > 80
    for row in rows:
        *_, named = row.strip("| ").split(" | ")
        files = [ROOT / path for path in re.findall(r"`(tests/[\w/]+\.py)`", named)]
        text = "".join(file.read_text() for file in files)
        names = re.findall(r"`(test_\w+)`", named)
        assert [name for name in names if f"def {name}(" not in text] == [], row


# Settings.


@cache
def variables_read() -> frozenset[str]:
    """The environment variables that the code reads: the first arguments of the READERS."""
    return frozenset(
        name
        for file in (ROOT / "keyportal").rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and _reads_environment(call.func) and call.args
        for name in [_constant(call.args[0])]
        if name
    ) - {"DJANGO_SETTINGS_MODULE"}


def _reads_environment(function: ast.expr) -> bool:
    text = ast.unparse(function)
    return text.startswith(("env.", "os.environ.", "os.getenv")) or text in READERS


def _constant(argument: ast.expr) -> str:
    value = argument.value if isinstance(argument, ast.Constant) else ""
    return value if isinstance(value, str) and value.isupper() else ""


def test_the_configuration_lists_every_variable_and_no_other() -> None:
    page = PAGES["docs/configuration.md"]
    documented = re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert len(documented) == len(set(documented))
    assert set(documented) == variables_read() == settings.VARIABLES


def test_make_hides_every_variable_of_this_machine_from_the_checks() -> None:
    (names,) = re.findall(r"(?s)^CLEAN := env \$\(foreach name,(.*?),-u", MAKEFILE, re.MULTILINE)
    assert {*names.replace("\\", "").split()} == {*settings.VARIABLES, "BUILD_NUMBER", "CI"}


def test_variables_of_settings_are_found() -> None:
    expected = {"SECRET_KEY", "PORT", "DATABASE_URL", "KEYPORTAL_DATA", "KEYPORTAL_TRUSTED_PROXIES"}
    assert expected <= variables_read()


def test_every_variable_that_a_page_names_exists() -> None:
    for name, text in PAGES.items():
        assert set(re.findall(r"\bKEYPORTAL_[A-Z_]+\b", text)) <= variables_read(), name


def test_make_check_ignores_settings_of_the_machine() -> None:
    (listed,) = re.findall(
        r"^CLEAN := env \$\(foreach name,([A-Z_\s\\]+),",
        (ROOT / "Makefile").read_text(),
        re.MULTILINE,
    )
    # The last two are pytest's.
    assert set(listed.replace("\\", "").split()) == variables_read() | {"BUILD_NUMBER", "CI"}


# Make.


def make_targets() -> dict[str, str]:
    """Each target with its line of help."""
    targets = re.findall(
        r"^([a-z]+):[^=#\n]*(?:## (.+))?$", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    return {name: text for name, text in targets if name not in {"serving", "developing"}}


def test_every_make_target_has_a_help_line_and_is_documented() -> None:
    targets = make_targets()
    assert {"run", "test", "check", "format", "requirements"} <= set(targets)
    for name, text in targets.items():
        assert text, f"make {name} has no help line"
        assert name == "help" or any(f"make {name}" in page for page in PAGES.values())


def test_every_make_call_in_a_page_can_be_made() -> None:
    makefile = (ROOT / "Makefile").read_text()
    known = variables_read() | set(re.findall(r"^([A-Z]+) \?=", makefile, re.MULTILINE))
    for name, page in PAGES.items():
        lines = [line for block in blocks_of(page, "sh") for line in block.splitlines()]
        calls = [one for one in [*code_of(page), *lines] if re.match(r"make\s", one)]
        for call in calls:
            _, *arguments = shlex.split(call, comments=True)
            for argument in arguments:
                variable, is_set, _ = argument.partition("=")
                assert variable in (known if is_set else make_targets()), f"{name}: {call}"


# Commands.


@cache
def parser_of(command: str) -> argparse.ArgumentParser:
    """Raises `CommandError` for an invalid call."""
    loaded = load_command_class(get_commands()[command], command)
    return loaded.create_parser("manage.py", command)


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    names = {name for action in parser._actions for name in action.option_strings}
    return {name for name in names if name.startswith("--")} - COMMON_OPTIONS


def our_commands() -> list[str]:
    files = (ROOT / "keyportal").glob("*/management/commands/[a-z]*.py")
    return sorted(file.stem for file in files)


def options_in(text: str) -> set[str]:
    """The options in a text, and those of the limits if it links their section."""
    found = set(re.findall(r"`(--[a-z-]+)", text))
    return found | options_in(section(CLI, "Limits")) if "(#limits)" in text else found


def row_of(command: str) -> str:
    rows = re.findall(rf"^\| `{command}[ `].*$", CLI, re.MULTILINE)
    assert len(rows) == 1, f"docs/cli.md has {len(rows)} rows for {command}"
    return str(rows[0])


def test_every_command_is_documented_and_every_documented_command_exists() -> None:
    documented = {
        match[1] for cells in rows_of(CLI) if (match := re.match(r"`(?!--)(\w+)", cells[0]))
    }
    documented |= set(re.findall(r"^`(\w+) ", CLI, re.MULTILINE))
    assert documented == {*our_commands(), *DJANGO_COMMANDS}


def test_every_option_of_a_command_is_documented() -> None:
    for command in {*our_commands()} - {"keys", "setpolicy"}:
        assert options_in(row_of(command)) == options_of(parser_of(command)), command


def test_every_option_of_setpolicy_is_documented() -> None:
    assert options_in(section(CLI, "Policies")) == options_of(parser_of("setpolicy"))


def test_every_option_of_keys_is_documented_with_its_subcommands() -> None:
    subparsers = subparsers_of(parser_of("keys"))
    documented: dict[str, set[str]] = {name: set() for name in subparsers}
    text = section(CLI, "Keys")
    assert set(re.findall(r"^\| `keys (\w+)", text, re.MULTILINE)) == set(subparsers)
    for option, applies_to, _ in (cells for cells in rows_of(text) if len(cells) == 3):
        whose = subparsers if applies_to == "all" else re.findall(r"`(\w+)`", applies_to)
        for name in whose:
            documented[name] |= options_in(option)
    assert documented == {name: options_of(parser) for name, parser in subparsers.items()}


def test_every_choice_of_an_option_is_documented() -> None:
    known = {*code_of(CLI), *code_of(PAGES["docs/management-api.md"])}
    for command in our_commands():
        parser = parser_of(command)
        for one in (parser, *subparsers_of(parser).values()):
            for action in one._actions:
                if isinstance(action, argparse._SubParsersAction) or not action.choices:
                    continue
                if COMMON_OPTIONS.isdisjoint(action.option_strings):
                    assert set(action.choices) <= known, f"{command} {action.option_strings}"


def manage_calls() -> list[tuple[str, str]]:
    """Page and arguments of each complete call of manage.py in a block."""
    return [
        (name, call)
        for name, page in PAGES.items()
        for block in blocks_of(page)
        for call in re.findall(r"manage\.py (.+)", block)
    ]


def test_every_call_of_a_command_can_be_made() -> None:
    for name, call in manage_calls():
        with case(name, call):
            command, *arguments = shlex.split(call, comments=True)
            parser_of(command).parse_args(arguments)


def test_pages_name_no_other_commands() -> None:
    for name, page in PAGES.items():
        for command in re.findall(r"manage\.py ([a-z_]+)", page):
            assert command in get_commands(), f"{name}: {command}"


def test_shell_blocks_can_be_parsed() -> None:
    for name, text in PAGES.items():
        for block in blocks_of(text, "sh"):
            checked = subprocess.run([BASH, "-n"], input=block, capture_output=True, text=True)
            assert checked.returncode == 0, (name, checked.stderr, block)


# Addresses.


def addresses_in(text: str) -> set[str]:
    """Paths on a server of ours, in code and as whole addresses, without their query."""
    blocks = "\n".join(blocks_of(text))
    whole = re.findall(r"https?://(?:127\.0\.0\.1:8000|keys\.example\.com)(/[^\s'\"?`)]*)", text)
    method, query = r"(?:[A-Z]+ )?", r"(?:\?.*)?"
    named = [re.fullmatch(rf"{method}(/[\w.][\w./-]*){query}", code) for code in code_of(text)]
    paths = {match[1] for match in named if match}
    return {*whole, *paths, *re.findall(r"(?<=\s)(/(?:v1|api|leaks)/[\w./-]+)", blocks)}


def is_served(path: str) -> bool:
    if path.startswith(FOLDERS):
        return True
    # The pages' example of a `KEYPORTAL_URL` with a path.
    path = re.sub(r"^/keyportal(?=/|$)|(?<=-server)/keyportal$", "", path) or "/"
    if path in PREFIXES | HEALTH_PATHS or path == VERIFY or find(path):
        return True
    if path.startswith("/v1"):
        return path == "/v1"
    try:
        return resolve(path).url_name != "not-found"
    except Resolver404:
        return False


def test_every_address_in_a_page_is_served() -> None:
    named = {(name, path) for name, text in PAGES.items() for path in addresses_in(text)}
    assert [one for one in named if not is_served(one[1])] == []


def test_address_that_is_not_served_is_found() -> None:
    text = "`/v1/nothing`, `GET /api/v1/nothing`, `/leaks/nothing?a=b`, `/admin/`"
    assert {path for path in addresses_in(text) if not is_served(path)} == {
        "/v1/nothing",
        "/api/v1/nothing",
        "/leaks/nothing",
    }


def test_every_endpoint_is_documented() -> None:
    documented = set(code_of(PAGES["docs/calling-the-api.md"]))
    assert {f"POST {path}" for path in ENDPOINTS} <= documented
    assert {f"GET {MODELS_PATH}", f"GET {KEY_PATH}"} <= documented


def test_every_operation_of_the_management_api_is_documented_with_its_scope() -> None:
    documented: dict[str, str] = {}
    for cells in rows_of(section(PAGES["docs/management-api.md"], "Operations")):
        documented |= dict.fromkeys(re.findall(r"`([A-Z]+ [^`]+)`", cells[0]), cells[2])
    declared = {f"{operation.method} {operation.path}": operation for operation in OPERATIONS}
    assert set(documented) == set(declared)
    for name, operation in declared.items():
        scopes = [operation.scope] if operation.scope else []
        values = {scope.value for scope in (*scopes, *operation.extra_scopes)}
        assert values <= set(code_of(documented[name])), name


# Releases.


def test_the_changelog_has_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", PAGES["CHANGELOG.md"], re.MULTILINE)
    assert versions[0] == project["version"] == keyportal.__version__


def test_locks_have_no_index_link_or_path() -> None:
    for lock in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / lock).read_text()
        assert not re.search(r"^\s*(--(?!hash=)|-[a-z]\b|\.|/)|://|@ ", text, re.MULTILINE), lock


def test_key_format_is_documented() -> None:
    described = PAGES["docs/key-format.md"]
    pattern = scanner_rules.github()
    assert f"\n{scanner_rules.regex()}\n" in described
    for field in ("secret_format", "before_secret", "after_secret", "test_string"):
        assert f"| `{pattern[field].replace('|', chr(92) + '|')}` |" in described
    for length in (keystring.PUBLIC_LENGTH, keystring.SECRET_LENGTH):
        assert re.search(rf"\b{length}\b", described)
