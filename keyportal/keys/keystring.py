"""The key string: the only place that makes, checks, digests, masks and redacts one.

    sk-kp-  7QmX2aPd  32 secret characters  6 checksum characters
    prefix  public    190 bits              CRC-32 of all before it

A management key differs only in its prefix, `mk-kp-`. The public part and the secret are random
base62 characters from `secrets`. Because of prefix and checksum, a scanner recognises a key without
asking the server, and the gateway refuses a typo without a query. With 190 bits a plain SHA-256 is
the right hash (OWASP ASVS 5.0, 6.5.2): the secret cannot be guessed, so a slow hash would only slow
down the gateway, and a pepper would only be one more thing to lose.
"""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from functools import cache

from django.conf import settings
from django.core.exceptions import ValidationError

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PUBLIC_LENGTH = 8
SECRET_LENGTH = 32
CHECKSUM_LENGTH = 6
LAST_LENGTH = 4
PUBLIC_ID = rf"[0-9A-Za-z]{{{PUBLIC_LENGTH}}}"


@dataclass(frozen=True, slots=True, repr=False)
class KeyString:
    """A new key string. `text` is secret; the other attributes may be stored and shown."""

    text: str
    prefix: str
    public_id: str

    @property
    def last4(self) -> str:
        return self.text[-LAST_LENGTH:]

    def __repr__(self) -> str:
        # Tracebacks and debuggers show reprs, and must not show the key string.
        return f"<KeyString {mask(self.prefix, self.public_id, self.last4)}>"


def generate(public_id: str | None = None, *, prefix: str = "") -> KeyString:
    """A new key string. A rotation passes the public id of the key.

    Without `prefix` it is for an API key, not for a management key.
    """
    prefix = prefix or settings.KEY_PREFIXES[0]
    public_id = public_id or _random_base62(PUBLIC_LENGTH)
    body = prefix + public_id + _random_base62(SECRET_LENGTH)
    return KeyString(body + checksum(body.encode()).decode(), prefix, public_id)


# Two digits at a time, for speed: the gateway computes a checksum for each request.
_PAIRS = [(high + low).encode() for high in ALPHABET for low in ALPHABET]


def checksum(body: bytes) -> bytes:
    """CRC-32 (zlib) of `body` as six base62 digits, the most significant first."""
    rest, last = divmod(zlib.crc32(body), len(_PAIRS))
    first, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]


def is_well_formed(text: bytes, prefixes: tuple[str, ...] = ()) -> bool:
    """Whether this could be a key string of this service. It does no I/O.

    Without `prefixes`, only API keys are well formed, and management keys are not.
    """
    return (
        _key_regex(prefixes or settings.KEY_PREFIXES).fullmatch(text) is not None
        and checksum(text[:-CHECKSUM_LENGTH]) == text[-CHECKSUM_LENGTH:]
    )


def digest(text: bytes) -> bytes:
    """The SHA-256 that is stored and looked up: 32 bytes."""
    return hashlib.sha256(text).digest()


def mask(prefix: str, public_id: str, last4: str) -> str:
    """`sk-kp-7QmX2aPd…k3Tz`: enough to recognise a key, but no use to call with."""
    return f"{prefix}{public_id}…{last4}"


def redact(text: str) -> str:
    """`text` with every key string in it, also mistyped or incomplete, cut to its public part.

    Also in a URL, with percent-encoded characters, where each `%` may again be encoded as `%25`,
    any number of times. Not found: escapes with escaped hexadecimal digits, which would only hide a
    key of the sender from us; and other encodings, such as base64.
    """
    # Few texts contain `%`, and the other expression is faster.
    prefixes = all_prefixes()
    regex = _url_regex(prefixes) if "%" in text else _search_regex(prefixes, "[0-9A-Za-z]+")
    return regex.sub(r"\g<public>…", text)


def find_public_id(text: str) -> str:
    """The public id of a key string in `text`, whole, incomplete or masked; empty without one."""
    match = _search_regex(all_prefixes()).search(text)
    return match["public_id"] if match else ""


def is_public_id(text: str) -> bool:
    """Whether this could be the public id of a key."""
    return re.fullmatch(PUBLIC_ID, text) is not None


def public_id_of(text: bytes) -> str:
    """The public id of a well-formed key."""
    end = len(text) - SECRET_LENGTH - CHECKSUM_LENGTH
    return text[end - PUBLIC_LENGTH : end].decode()


def find_keys(text: str) -> list[str]:
    """All well-formed key strings in `text`, of both kinds, in order, without duplicates."""
    prefixes = all_prefixes()
    matches = re.findall(pattern(prefixes) + "(?![0-9A-Za-z])", text)
    return [key for key in dict.fromkeys(matches) if is_well_formed(key.encode(), prefixes)]


def all_prefixes() -> tuple[str, ...]:
    """The prefixes of API keys, then those of management keys."""
    return (*settings.KEY_PREFIXES, *settings.MANAGEMENT_KEY_PREFIXES)


def pattern(prefixes: tuple[str, ...]) -> str:
    """A regular expression for a key string, in syntax that all engines understand."""
    length = PUBLIC_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH
    return rf"(?:{_alternatives(prefixes)})[0-9A-Za-z]{{{length}}}"


def _random_base62(length: int) -> str:
    """Uniformly distributed: the digits of one random number."""
    number = secrets.randbelow(len(ALPHABET) ** length)
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(digits)


@cache
def _key_regex(prefixes: tuple[str, ...]) -> re.Pattern[bytes]:
    return re.compile(pattern(prefixes).encode())


@cache
def _search_regex(prefixes: tuple[str, ...], secret: str = "") -> re.Pattern[str]:
    public_id = f"(?P<public_id>{PUBLIC_ID})"
    return re.compile(rf"(?P<public>(?:{_alternatives(prefixes)}){public_id}){secret}")


_MAYBE_PERCENT_ENCODED = r"(?:[0-9A-Za-z]|%(?:25)*(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]))"


@cache
def _url_regex(prefixes: tuple[str, ...]) -> re.Pattern[str]:
    """No part can match in two ways, so the time is linear in the length of the text."""
    either = "|".join("".join(map(_maybe_percent_encoded, prefix)) for prefix in prefixes)
    return re.compile(
        rf"(?P<public>(?:{either}){_MAYBE_PERCENT_ENCODED}{{{PUBLIC_LENGTH}}}){_MAYBE_PERCENT_ENCODED}+"
    )


def _maybe_percent_encoded(character: str) -> str:
    escaped = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in character.encode())
    return f"(?:{re.escape(character)}|{escaped})"


def _alternatives(prefixes: tuple[str, ...]) -> str:
    """Without `\\-`, because engines differ on what that means; a plain hyphen means itself."""
    return "|".join(re.escape(prefix).replace(r"\-", "-") for prefix in prefixes)


def require_no_key(text: str) -> None:
    """For every text that people can store: it is in plain text, and others can read it.

    A validator: raises `ValidationError`.
    """
    if redact(text) != text:
        raise ValidationError("This contains an API key. Never put a key where others can read it.")
