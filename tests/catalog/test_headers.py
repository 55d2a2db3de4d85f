"""The headers that an operator adds to each call of a model server."""

import pytest
from django.core.exceptions import ValidationError

from keyportal.catalog.headers import MAX_TEXT_LENGTH, ServerHeaders, combine, parse

pytestmark = pytest.mark.any_database


def test_lines_are_read_as_headers() -> None:
    text = "\r\nX-Org:  ours \r\n\n HTTP-Referer: https://a.example/b?c=d:e\nX-Title:\ttwo words"
    assert parse(text) == {
        "x-org": "ours",
        "http-referer": "https://a.example/b?c=d:e",
        "x-title": "two words",
    }
    assert parse("") == {}


@pytest.mark.parametrize(
    "text",
    [
        "a-secret",
        "X Org: a-secret",
        "X-Org : a-secret",
        ": a-secret",
        "X-Org:",
        "X-Org: a-secret\n folded",
        "X-Org: a-secret\x00",
        "X-Org: a-secret\x0bY: 1\x1c1",
        "X-Org: a-secret-ä",
        "X-Org: a-secret\nx-org: 2",
        "Host: a-secret",
        "content-length: 0",
        "Transfer-Encoding: chunked",
        "Connection: a-secret",
        "X-Request-Id: a-secret",
        "X-Client-Request-Id: a-secret",
        "X-Org: a-secret" + "x" * MAX_TEXT_LENGTH,
    ],
)
def test_other_lines_are_refused_without_repeating_them(text: str) -> None:
    """Attack: a line break adds a header, and a wrong length another request."""
    with pytest.raises(ValidationError) as caught:
        parse(text)
    assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("carrier", "usual", "anthropic"),
    [
        ("authorization", ["authorization"], ["authorization", "x-api-key"]),
        ("x-api-key", ["x-api-key"], ["x-api-key"]),
        ("api-key", ["api-key"], ["api-key"]),
    ],
)
def test_the_credential_has_the_header_that_was_chosen(
    carrier: str, usual: list[str], anthropic: list[str]
) -> None:
    headers = combine({"x-org": "ours"}, "word", carrier)
    assert [name.decode() for name, _ in headers.usual] == ["x-org", *usual]
    assert [name.decode() for name, _ in headers.anthropic] == ["x-org", *anthropic]
    value = b"Bearer word" if carrier == "authorization" else b"word"
    assert headers.usual[-1] == (carrier.encode(), value)
    assert headers.added_names == {b"x-org"}
    for name in anthropic:
        with pytest.raises(ValidationError, match=f"{name} is sent with the credential"):
            combine({name: "1"}, "word", carrier)


def test_without_a_credential_the_headers_may_authorize() -> None:
    added = (b"authorization", b"Basic YTpi")
    assert combine({"authorization": "Basic YTpi"}, "", "authorization") == ServerHeaders(
        (added,), (added,), frozenset({b"authorization"})
    )
    assert combine({}, "", "api-key") == ServerHeaders()
