"""A body that can't be read is refused with what is wrong and where, and with none of its text."""

import pytest

from keyportal.gateway.errors import BadRequest
from keyportal.gateway.relay.json_body import parse_call

pytestmark = pytest.mark.any_database
SURROGATE = "a surrogate without its other half, such as \\ud800 alone"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"", "it is empty"),
        (b'{"model": "m"', "it ends too early (after byte 13)"),
        (b'{"model": "m", "x": "y', "it ends too early (after byte 22)"),
        (b'{"model": "m",}', "trailing comma in object (near byte 14)"),
        (b'{"model": "m", "x": [1,]}', "trailing comma in array (near byte 23)"),
        (b'{"model": "m"} {}', "trailing characters (near byte 16)"),
        (b"{'model': 'm'}", "object keys must be strings (near byte 1)"),
        (b"model=m&stream=true", "invalid character (near byte 0)"),
        (b'{"model": "m", "x": NaN}', "NaN and Infinity are not JSON (near byte 20)"),
        (b'{"model": "m", "x": [-Infinity]}', "NaN and Infinity are not JSON (near byte 22)"),
        (b'{"model": "m", "x": 01}', "invalid number (near byte 21)"),
        (b'{"model": "m", "x": "\\ud800"}', f"{SURROGATE} (near byte 21)"),
        (b'{"model": "m", "x": "\\udc00 and more text"}', f"{SURROGATE} (near byte 27)"),
        (b'{"model": "m", "x": "\\ud83d and more text"}', f"{SURROGATE} (near byte 27)"),
        (b'{"model": "m", "x": "\\q"}', "invalid escaped character (near byte 22)"),
        (b'{"model": "m", "x": "\x01"}', "invalid character (near byte 21)"),
        (b'{"model": "m", "x": "\xff"}', "it is not UTF-8 (byte 21)"),
        ('{"model": "é", "x": tru}'.encode(), "invalid character (near byte 22)"),
        (b'\xef\xbb\xbf{"model": "m",}', "trailing comma in object (near byte 14)"),
        (b'{"model": "m", "x": ' + b"[" * 100_000, "it is nested too deeply"),
    ],
)
def test_message_says_what_is_wrong_and_where(body: bytes, problem: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_call(body)
    assert str(caught.value) == f"The request body can't be read: {problem}."


@pytest.mark.parametrize("body", [b"[]", b"null", b'"secret"', b"12"])
def test_json_that_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="must be a JSON object"):
        parse_call(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"model": "m", "secret": "secret" secret}',
        b'{"model": "m", "x": "secret\xffsecret"}',
        b'{"model": "m", "x": "\\secret"}',
        b'{"model": "m", secret: 1}',
        b"secret",
        b'"secret"',
        b'{"secret',
    ],
)
def test_message_does_not_quote_the_body(body: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_call(body)
    assert "secret" not in str(caught.value)
