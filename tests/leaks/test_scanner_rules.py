"""The published rules find every key, and the checksum excludes look-alikes, offline."""

import random
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from django.test import Client
from pytest_django import Settings

from keyportal.keys import keystring
from keyportal.leaks import scanner_rules

NUMBER = 20_000
FILES = "/.well-known/keyportal"


def look_alikes(number: int) -> list[str]:
    """Right in prefix, length and alphabet. The same each time: one in four billion is a key."""
    dice = random.Random(7)
    length = keystring.PUBLIC_LENGTH + keystring.SECRET_LENGTH + keystring.CHECKSUM_LENGTH
    return ["sk-kp-" + "".join(dice.choices(keystring.ALPHABET, k=length)) for _ in range(number)]


def keys(number: int) -> list[str]:
    return [keystring.generate().text for _ in range(number)]


def test_the_rule_finds_twenty_thousand_keys_and_each_has_its_checksum() -> None:
    real = keys(NUMBER)
    text = "\n".join(f'key = "{one}"' for one in real)
    assert re.findall(scanner_rules.regex(), text) == real
    assert all(keystring.is_well_formed(one.encode()) for one in real)


def test_the_checksum_tells_twenty_thousand_look_alikes_from_keys() -> None:
    false = look_alikes(NUMBER)
    assert re.findall(scanner_rules.regex(), "\n".join(false)) == false
    assert not any(keystring.is_well_formed(one.encode()) for one in false)
    assert keystring.find_keys("\n".join(false)) == []


@pytest.mark.parametrize(
    "around",
    [
        "{}",
        "x{}",
        "KEY_{}",
        "{}_",
        "'{}'",
        "{}.",
        "key={}&a=b",
        "{},{}",
        "{}\n{}",
        "a\t{}\r\n",
        "é{}é",
    ],
)
def test_the_rule_finds_a_key_wherever_it_stands(around: str) -> None:
    real = keystring.generate().text
    text = around.replace("{}", real)
    found = re.findall(scanner_rules.regex(), text, re.ASCII)
    assert found == [real] * around.count("{}")
    assert keystring.find_keys(text) == [real]


def test_rule_ignores_longer_shorter_and_other_tokens() -> None:
    real = keystring.generate().text
    for text in (real[:-1], real + "0", real.replace("sk-kp-", "sk-"), real.replace("-", "_"), ""):
        assert not re.findall(scanner_rules.regex(), text)
        assert not keystring.find_keys(text)


def test_keys_in_a_text_are_found_once_and_in_order() -> None:
    first, second = keys(2)
    assert keystring.find_keys(f"{first}\n{second} {first} {first[:-1]}") == [first, second]


def test_every_prefix_has_its_place_in_every_rule(settings: Settings) -> None:
    settings.KEY_PREFIXES = ("sk-kp-", "Old_")
    new = keystring.generate().text
    body = "Old_" + "a" * (keystring.PUBLIC_LENGTH + keystring.SECRET_LENGTH)
    old = body + keystring.checksum(body.encode()).decode()
    assert re.findall(scanner_rules.regex(), f"{new} {old}") == [new, old]
    assert keystring.find_keys(f"{new} {old}") == [new, old]
    assert tomllib.loads(scanner_rules.gitleaks())["rules"][0]["keywords"] == [
        "sk-kp-",
        "old_",
        "mk-kp-",
    ]
    (detector,) = yaml.safe_load(scanner_rules.trufflehog())["detectors"]
    assert detector["keywords"] == ["sk-kp-", "old_", "mk-kp-"]


def test_management_keys_are_found_by_every_rule(settings: Settings, tmp_path: Path) -> None:
    settings.MANAGEMENT_KEY_PREFIXES = ("mk-kp-", "Boss_")
    real = [keystring.generate(prefix=prefix).text for prefix in ("sk-kp-", "mk-kp-", "Boss_")]
    text = "\n".join([*real, real[1][:-1], real[1] + "0", real[1].replace("mk-", "nk-")])
    (rule,) = tomllib.loads(scanner_rules.gitleaks())["rules"]
    (detector,) = yaml.safe_load(scanner_rules.trufflehog())["detectors"]
    shape = scanner_rules.github()["secret_format"]
    for pattern in (scanner_rules.regex(), rule["regex"], detector["regex"]["key"]):
        assert re.findall(pattern, text) == real
    assert all(re.fullmatch(shape, one) for one in real)
    assert keystring.find_keys(text) == real
    for words in (rule["keywords"], detector["keywords"]):
        assert words == ["sk-kp-", "mk-kp-", "boss_"]
    assert scanner_rules.description()["prefixes"] == ["sk-kp-", "mk-kp-", "Boss_"]
    (tmp_path / "check_keys.py").write_text(scanner_rules.checker())
    command = [sys.executable, "-I", str(tmp_path / "check_keys.py")]
    done = subprocess.run(command, capture_output=True, text=True, input=text)
    assert [line.rpartition(" ")[2] for line in done.stdout.splitlines()] == [
        f"{one[:-38]}..." for one in real
    ]


def test_a_management_key_is_found_and_still_calls_no_model() -> None:
    real = keystring.generate(prefix="mk-kp-").text
    assert keystring.find_keys(real) == [real]
    assert not keystring.is_well_formed(real.encode())
    look_alike = real[:-1] + ("0" if real[-1] != "0" else "1")
    assert keystring.find_keys(look_alike) == []


def test_gitleaks_gets_a_rule_in_its_own_form() -> None:
    config = tomllib.loads(scanner_rules.gitleaks())
    assert set(config) == {"title", "extend", "rules"}
    assert config["extend"] == {"useDefault": True}  # One's own file must not turn the rest off.
    (rule,) = config["rules"]
    assert set(rule) == {"id", "description", "regex", "secretGroup", "keywords"}
    assert rule["secretGroup"] == 1
    real = keystring.generate().text
    assert re.search(rule["regex"], f"a {real} b")[1] == real  # type: ignore[index]  # or it fails
    assert any(word in real.lower() for word in rule["keywords"])


@pytest.mark.skipif(
    not shutil.which("gitleaks"),
    reason="gitleaks is not installed: https://github.com/gitleaks/gitleaks#installing",
)
def test_gitleaks_itself_finds_keys_and_nothing_else_by_this_rule(tmp_path: Path) -> None:
    real = keys(20)
    (tmp_path / "gitleaks.toml").write_text(scanner_rules.gitleaks())
    (tmp_path / "src").mkdir()
    text = "".join(f"x{one}_y {one[:-1]}\n" for one in real)
    (tmp_path / "src" / "a.txt").write_text(text + real[0] + "x\n")
    command = ["gitleaks", "dir", "src", "--config=gitleaks.toml", "--report-path=found.json"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1
    found = yaml.safe_load((tmp_path / "found.json").read_text())
    assert [one["Secret"] for one in found if one["RuleID"] == scanner_rules.RULE_ID] == real


def test_trufflehog_gets_a_detector_in_its_own_form() -> None:
    config = yaml.safe_load(scanner_rules.trufflehog())
    (detector,) = config["detectors"]
    assert set(config) == {"detectors"}
    assert set(detector) == {"name", "keywords", "regex"}
    real = keystring.generate().text
    assert re.search(detector["regex"]["key"], f"a {real} b")[1] == real  # type: ignore[index]  # or it fails


def test_rules_use_nothing_that_re2_lacks() -> None:
    assert not re.search(r"\(\?[=!<]|\\[1-9]|\\[zZ]", scanner_rules.regex())


def test_githubs_pattern_matches_its_own_test_string() -> None:
    pattern = scanner_rules.github()
    parts = (pattern["before_secret"], pattern["secret_format"], pattern["after_secret"])
    whole = "(?:{})({})(?:{})".format(*parts).replace(r"\z", r"\Z")
    for text in (pattern["test_string"], f'"{pattern["test_string"]}"'):
        assert re.search(whole, text)[1] == pattern["test_string"]  # type: ignore[index]  # or it fails
    assert not re.search(whole, pattern["test_string"] + "0")
    assert keystring.is_well_formed(pattern["test_string"].encode())


def test_published_program_tells_keys_from_look_alikes(tmp_path: Path) -> None:
    real, false = keys(500), look_alikes(500)
    (tmp_path / "check_keys.py").write_text(scanner_rules.checker())
    (tmp_path / "found.txt").write_text("\n".join([*real, *false]))

    def check(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", str(tmp_path / "check_keys.py"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=text)

    done = check(str(tmp_path / "found.txt"))
    assert done.returncode == 1
    shown = [line.rpartition(" ")[2] for line in done.stdout.splitlines()]
    assert shown == [f"{one[:14]}..." for one in real]
    assert not any(one[14:30] in done.stdout for one in real)
    assert check(text="\n".join(false)).returncode == 0
    for text in (real[0], f"密钥是{real[0]}是密钥", f"é{real[0]}é"):
        assert check(text=text).stdout == f"-:1: {real[0][:14]}...\n"


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("path", "kind", "holds"),
    [
        ("/.well-known/api-key-format", "text/html", "gitleaks.toml"),
        (f"{FILES}/api-key-format.json", "application/json", '"checksum"'),
        (f"{FILES}/gitleaks.toml", "application/toml", "[[rules]]"),
        (f"{FILES}/trufflehog.yaml", "application/yaml", "detectors:"),
        (f"{FILES}/check_keys.py", "text/x-python", "def is_key"),
    ],
)
def test_all_is_open_to_everybody(
    db: None, client: Client, path: str, kind: str, holds: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith(kind)
    assert holds in answer.content.decode()
    assert client.post(path).status_code == 405
    if kind != "text/html":
        assert answer["Cache-Control"] == "public, max-age=3600"
        assert not answer.cookies


@pytest.mark.any_database
def test_served_files_match_the_rules(db: None, client: Client) -> None:
    assert client.get(f"{FILES}/gitleaks.toml").content.decode() == scanner_rules.gitleaks()
    assert client.get(f"{FILES}/api-key-format.json").json() == scanner_rules.description()
