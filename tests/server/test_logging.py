"""The log as JSON."""

import json
import logging
import sys
from typing import Any

import pytest
from gunicorn.config import Config
from pytest_django import Settings

import keyportal
from keyportal.keys.keystring import generate
from keyportal.server.logging import JSONFormatter, RedactingLogger


def written(message: str, **more: Any) -> dict[str, Any]:
    record = logging.LogRecord("keyportal.x", logging.ERROR, "f.py", 1, message, (), None)
    record.__dict__ |= more
    text = JSONFormatter().format(record)
    assert "\n" not in text
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_has_what_a_collector_needs() -> None:
    line = written("It broke.", created=0.5)
    assert line.pop("process") > 0
    assert line == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "ERROR",
        "logger": "keyportal.x",
        "message": "It broke.",
    }


def test_an_exception_is_part_of_its_line() -> None:
    try:
        raise ValueError("twice")
    except ValueError:
        line = written("It broke.", exc_info=sys.exc_info())
    assert line["exception"].startswith("Traceback")
    assert line["exception"].endswith("ValueError: twice")


@pytest.mark.parametrize("before", ["", "\n", "\t", '"', "\ud800"])
def test_key_strings_are_redacted(before: str) -> None:
    """Attack: in JSON, a line break before a key string is a letter, which hides its beginning."""
    key = generate().text
    assert key not in json.dumps(written(f"{before}{key}"))
    try:
        raise ValueError(f"{before}{key}")
    except ValueError:
        assert key not in json.dumps(written("It broke.", exc_info=sys.exc_info()))


def test_gunicorn_writes_json_too(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    settings.LOG_FORMAT = "json"
    RedactingLogger(Config())
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["message"] == f"Keyportal {keyportal.__version__}"
