"""What is wrong with a body that is not JSON, and where, without any of its content.

A position is a byte of the decoded body, counted from 0, after a byte order mark. msgspec tells
that of the wrong byte, or of the one behind it.
"""

import re

import msgspec

from keyportal.gateway.errors import BadRequest

_HALF_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_NOT_JSON = (b"NaN", b"Infinity")
_SURROGATE_PROBLEMS = ("invalid utf-16 surrogate pair", "unexpected end of hex escape")
_SURROGATE = "a surrogate without its other half, such as \\ud800 alone"


def json_error(body: bytes | bytearray, error: Exception) -> BadRequest:
    """The refusal of a body for which decoding raised `error`."""
    if isinstance(error, msgspec.ValidationError):
        return BadRequest()  # Valid JSON, but no object.
    return BadRequest(f"The request body can't be read: {_problem(body, error)}.")


def _problem(body: bytes | bytearray, error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 (byte {error.start})"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    message = str(error).removeprefix("JSON is malformed: ")
    if message == "Input data was truncated":
        return _problem_at_end(body)
    problem, _, position = message.removesuffix(")").partition(" (byte ")
    if position and body.startswith(_NOT_JSON, int(position)):
        problem = "NaN and Infinity are not JSON"
    elif problem in _SURROGATE_PROBLEMS:
        problem = _SURROGATE
    return f"{problem} (near byte {position})" if position else "it is not valid JSON"


def _problem_at_end(body: bytes | bytearray) -> str:
    if not body:
        return "it is empty"
    # msgspec misses the six bytes of the other half.
    start = max(len(body) - 11, 0)
    if half := _HALF_PAIR.search(body, start):
        return f"{_SURROGATE} (near byte {half.start()})"
    return f"it ends too early (after byte {len(body)})"
