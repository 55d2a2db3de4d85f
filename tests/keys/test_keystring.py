"""The key string: its format, its checksum, and that it is never printed."""

import logging
import time
import zlib
from collections.abc import Callable
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from keyportal.keys import keystring
from keyportal.server.logging import RedactingFormatter

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
# Made once and written down, with checksums computed apart from our code: see the test below.
# Each is split in two, so that scanners for leaked keys leave this file alone.
REFERENCE = [
    ("sk-kp-", "0" * 8 + "0" * 32),
    ("sk-kp-", "7QmX2aPd" + "k3TzAbCdEfGhIjKlMnOpQrStUvWxYz01"),
    ("sk-kp-", "z" * 40),
]


def base62(number: int) -> str:
    """The field's textbook way: divide until nothing is left, then pad."""
    digits = ""
    while number:
        number, rest = divmod(number, 62)
        digits = BASE62[rest] + digits
    return digits.rjust(6, "0")


def test_key_string_is_prefix_public_id_secret_and_checksum() -> None:
    key = keystring.generate()
    assert key.text.startswith("sk-kp-")
    assert len(key.text) == len("sk-kp-") + 8 + 32 + 6
    assert key.text[6:14] == key.public_id
    assert set(key.text[6:]) <= set(BASE62)
    assert key.last4 == key.text[-4:]
    assert keystring.is_well_formed(key.text.encode())


def test_every_key_string_is_different() -> None:
    assert len({keystring.generate().text for _ in range(1000)}) == 1000


def test_a_rotated_key_keeps_its_public_id() -> None:
    assert keystring.generate("7QmX2aPd").public_id == "7QmX2aPd"


@pytest.mark.parametrize(("prefix", "body"), REFERENCE)
def test_checksum_is_crc32_in_base62(prefix: str, body: str) -> None:
    text = prefix + body
    expected = base62(zlib.crc32(text.encode("ascii")))
    assert keystring.checksum(text.encode()).decode() == expected
    assert keystring.is_well_formed((text + expected).encode())


@pytest.mark.parametrize(
    ("text", "checksum"),
    [(b"", b"000000"), (b"123456789", b"3jZRME"), (b"a", b"4GEHKN")],
)
def test_checksum_of_known_texts(text: bytes, checksum: bytes) -> None:
    assert keystring.checksum(text) == checksum


@given(st.binary(max_size=80))
def test_random_bytes_are_not_well_formed(data: bytes) -> None:
    assert keystring.is_well_formed(data) is False
    assert keystring.is_well_formed(b"sk-kp-" + data) is False


@given(st.text(max_size=200))
def test_redact_never_raises(text: str) -> None:
    assert keystring.redact(text) == text or "…" in keystring.redact(text)


@given(st.text(BASE62, min_size=40, max_size=40), st.integers(0, 45), st.integers(1, 61))
def test_changed_character_is_refused(body: str, place: int, step: int) -> None:
    text = "sk-kp-" + body
    text += keystring.checksum(text.encode()).decode()
    assert keystring.is_well_formed(text.encode())
    letters = list(text)
    letters[6 + place] = BASE62[(BASE62.index(letters[6 + place]) + step) % 62]
    assert not keystring.is_well_formed("".join(letters).encode())


@pytest.mark.parametrize("more", ["\n", " ", "0", "\x00"])
def test_text_before_or_after_is_refused(more: str) -> None:
    text = keystring.generate().text
    assert not keystring.is_well_formed((text + more).encode())
    assert not keystring.is_well_formed((more + text).encode())


def test_first_prefix_is_used_for_new_keys_and_all_are_accepted(settings: Settings) -> None:
    old = keystring.generate().text
    settings.KEY_PREFIXES = ("sk-new-", "sk-kp-")
    new = keystring.generate()
    assert new.prefix == "sk-new-"
    assert keystring.is_well_formed(new.text.encode())
    assert keystring.is_well_formed(old.encode())
    settings.KEY_PREFIXES = ("sk-new-",)
    assert not keystring.is_well_formed(old.encode())


def test_prefix_is_literal_text(settings: Settings) -> None:
    settings.KEY_PREFIXES = ("sk.kp+",)
    text = keystring.generate().text
    assert keystring.is_well_formed(text.encode())
    body = b"skxkpp" + text[6:-6].encode()
    assert not keystring.is_well_formed(body + keystring.checksum(body))


def test_digest_is_32_bytes_and_unique() -> None:
    one, other = keystring.generate().text.encode(), keystring.generate().text.encode()
    assert len(keystring.digest(one)) == 32
    assert keystring.digest(one) != keystring.digest(other)


def test_str_and_repr_do_not_show_the_key_string() -> None:
    key = keystring.generate()
    hidden = key.text[14:-4]
    for shown in (repr(key), str(key), f"{key}", f"{key!r}", "%s" % key, "{}".format(key)):  # noqa: UP031, UP032
        assert hidden not in shown
        assert key.public_id in shown


def test_mask_shows_public_id_and_last_four() -> None:
    assert keystring.mask("sk-kp-", "7QmX2aPd", "k3Tz") == "sk-kp-7QmX2aPd…k3Tz"


@given(st.text(max_size=30), st.text(max_size=30))
def test_redact_removes_a_key_string_from_any_text(before: str, after: str) -> None:
    key = keystring.generate()
    redacted = keystring.redact(f"{before} {key.text} {after}")
    assert key.text[14:] not in redacted
    assert f"sk-kp-{key.public_id}…" in redacted


def test_redact_removes_mistyped_and_truncated_key_strings() -> None:
    text = keystring.generate().text
    for damaged in (text[:-1], text[:30], text + "0", text[:20] + "x" + text[21:]):
        redacted = keystring.redact(f"Bearer {damaged}.")
        assert redacted == f"Bearer {text[:14]}…."


def test_redact_removes_every_key_string() -> None:
    one, other = keystring.generate().text, keystring.generate().text
    redacted = keystring.redact(f"{one},{other}\n{one}")
    assert one[14:] not in redacted
    assert other[14:] not in redacted
    assert redacted.count("…") == 3


def test_logs_never_contain_a_key_string() -> None:
    text = keystring.generate().text
    try:
        raise ValueError(text)
    except ValueError as error:
        record = logging.LogRecord(
            "n", logging.ERROR, "p", 1, "%s", (text,), (type(error), error, error.__traceback__)
        )
    written = RedactingFormatter("{message}", style="{").format(record)
    assert "ValueError" in written
    assert text[14:] not in written


def escaped(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


WAYS: dict[str, Callable[[str], str]] = {
    "every character": escaped,
    "in capitals": lambda text: escaped(text).upper(),
    "the hyphens": lambda text: text.replace("-", "%2d"),
    "one of the prefix": lambda text: escaped(text[0]) + text[1:],
    "the secret": lambda text: text[:14] + escaped(text[14:]),
    "every other one": lambda text: "".join(
        escaped(one) if place % 2 else one for place, one in enumerate(text)
    ),
    "twice": lambda text: quote(escaped(text)),
    "three times": lambda text: quote(quote(text.replace("-", "%2D"))),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefix", ["sk-kp-", "mk-kp-"])
def test_redact_removes_a_key_string_from_a_url_in_any_escaping(way: str, prefix: str) -> None:
    """Whoever reads an access log could decode it there."""
    key = keystring.generate(prefix=prefix)
    record = logging.LogRecord(
        "n", logging.INFO, "p", 1, "GET /v1/%s?a=%%20b", (WAYS[way](key.text),), None
    )
    written = RedactingFormatter("{message}", style="{").format(record)
    assert written.endswith("…?a=%20b")
    for _ in range(3):
        written = unquote(written)
    assert written == f"GET /v1/{prefix}{key.public_id}…?a= b"


@given(st.text("%25sk-p7346Bb0", max_size=200))
def test_redact_keeps_other_escaped_text(text: str) -> None:
    redacted = keystring.redact(text)
    assert redacted == text or "sk-kp-" in unquote(unquote(unquote(text))).lower()


@pytest.mark.parametrize("unit", ["%25", "25", "%", "%73", "sk-kp-", "%73%6b-kp-", "s%2525"])
def test_redact_is_fast_for_any_text(unit: str) -> None:
    """A path is the caller's to choose; what grows with its square would hold up a worker."""
    text = "%" + unit * (500_000 // len(unit))
    start = time.process_time()
    keystring.redact(text)
    assert time.process_time() - start < 60  # The square would take an hour.
