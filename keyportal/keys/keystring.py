"""The key string: the only place that makes, checks, digests, masks and redacts one.

    sk-kp-  7QmX2aPd  32 secret characters  6 checksum characters
    prefix  public    190 bits              CRC-32 of all before it

A management key, `mk-kp-`, is made in the same way, and differs in its prefix alone.
All but the prefix is base62 from `secrets`. Prefix and checksum let a scanner tell a key from
its look-alikes without asking anyone, and let the gateway refuse a typo without a query. At 190
bits a plain SHA-256 is the right hash (OWASP ASVS 5.0, 6.5.2): there is nothing to guess, so a
slow hash would only slow the gateway, and a pepper would only be one more thing to lose.
"""

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from functools import cache

from django.conf import settings

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PUBLIC_LENGTH = 8
SECRET_LENGTH = 32
CHECKSUM_LENGTH = 6
LAST_LENGTH = 4
PUBLIC_ID = rf"[0-9A-Za-z]{{{PUBLIC_LENGTH}}}"


@dataclass(frozen=True, slots=True, repr=False)
class KeyString:
    """A new key. `text` is the plaintext; the rest may be stored and shown."""

    text: str
    prefix: str
    public_id: str

    @property
    def last4(self) -> str:
        return self.text[-LAST_LENGTH:]

    def __repr__(self) -> str:
        # A traceback or a debugger shows reprs; the plaintext is not for either.
        return f"<KeyString {mask(self.prefix, self.public_id, self.last4)}>"


def generate(public_id: str | None = None, *, prefix: str = "") -> KeyString:
    """A fresh key; a rotation passes the public id that the key already has.

    Without a `prefix`, one that calls models.
    """
    prefix = prefix or settings.KEY_PREFIXES[0]
    public_id = public_id or _random_base62(PUBLIC_LENGTH)
    body = prefix + public_id + _random_base62(SECRET_LENGTH)
    return KeyString(body + checksum(body.encode()).decode(), prefix, public_id)


# Two digits at a time: each request has its key's checksum worked out.
_PAIRS = [(high + low).encode() for high in ALPHABET for low in ALPHABET]


def checksum(body: bytes) -> bytes:
    """CRC-32 (zlib) of `body` as six base62 digits, the most significant first."""
    rest, last = divmod(zlib.crc32(body), len(_PAIRS))
    first, middle = divmod(rest, len(_PAIRS))
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]


def is_well_formed(text: bytes, prefixes: tuple[str, ...] = ()) -> bool:
    """Whether this could be a key of ours. No I/O: what fails never reaches the database.

    Without `prefixes`, one that calls models: a management key is none.
    """
    return (
        _key_regex(prefixes or settings.KEY_PREFIXES).fullmatch(text) is not None
        and checksum(text[:-CHECKSUM_LENGTH]) == text[-CHECKSUM_LENGTH:]
    )


def digest(text: bytes) -> bytes:
    """What is stored and looked up: 32 bytes of SHA-256."""
    return hashlib.sha256(text).digest()


def mask(prefix: str, public_id: str, last4: str) -> str:
    """`sk-kp-7QmX2aPd…k3Tz`: enough to recognise a key, useless to call with."""
    return f"{prefix}{public_id}…{last4}"


def redact(text: str) -> str:
    """`text` with every key in it, mistyped and cut-off ones too, cut to its public part.

    In a URL too: characters may be percent-encoded, and their `%` again as `%25`, however often.
    Not where the digits of an escape are escaped in turn, which only somebody who hides their own
    key from us would do; and no other encoding is looked into, such as base64.
    """
    # Few lines have one, and those without are searched faster.
    found = (
        _url_regex(all_prefixes()) if "%" in text else _search_regex(all_prefixes(), "[0-9A-Za-z]+")
    )
    return found.sub(r"\g<public>…", text)


def find_public_id(text: str) -> str:
    """The public id of a key in `text`, be that whole, cut off or masked; empty without one."""
    found = _search_regex(all_prefixes()).search(text)
    return found["public_id"] if found else ""


def is_public_id(text: str) -> bool:
    """Whether a key's public id could look like this."""
    return re.fullmatch(PUBLIC_ID, text) is not None


def public_id_of(text: bytes) -> str:
    """The public id of a well-formed key."""
    end = len(text) - SECRET_LENGTH - CHECKSUM_LENGTH
    return text[end - PUBLIC_LENGTH : end].decode()


def find_keys(text: str) -> list[str]:
    """Every well-formed key in `text`, of either kind, once each, in the order of the text."""
    prefixes = all_prefixes()
    found = re.findall(pattern(prefixes) + "(?![0-9A-Za-z])", text)
    return [key for key in dict.fromkeys(found) if is_well_formed(key.encode(), prefixes)]


def all_prefixes() -> tuple[str, ...]:
    """Of the keys that call models, and then of those that manage them."""
    return (*settings.KEY_PREFIXES, *settings.MANAGEMENT_KEY_PREFIXES)


def pattern(prefixes: tuple[str, ...]) -> str:
    """The shape of a key, as a regular expression of the kind that all engines understand."""
    length = PUBLIC_LENGTH + SECRET_LENGTH + CHECKSUM_LENGTH
    return rf"(?:{_alternatives(prefixes)})[0-9A-Za-z]{{{length}}}"


def _random_base62(length: int) -> str:
    """Any text of this length, each as likely as all others: the digits of one random number."""
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
    """No part can match in two ways, so the time is linear in the text."""
    either = "|".join("".join(map(_maybe_percent_encoded, prefix)) for prefix in prefixes)
    return re.compile(
        rf"(?P<public>(?:{either}){_MAYBE_PERCENT_ENCODED}{{{PUBLIC_LENGTH}}}){_MAYBE_PERCENT_ENCODED}+"
    )


def _maybe_percent_encoded(character: str) -> str:
    escaped = "".join(f"%(?:25)*(?i:{byte:02x})" for byte in character.encode())
    return f"(?:{re.escape(character)}|{escaped})"


def _alternatives(prefixes: tuple[str, ...]) -> str:
    """As they stand: a hyphen means itself, and engines differ on what `\\-` means."""
    return "|".join(re.escape(prefix).replace(r"\-", "-") for prefix in prefixes)
