"""What a scanner must know to find our keys: the format, published, and rules made from it.

All of it follows from `KEYPORTAL_KEY_PREFIXES`, `KEYPORTAL_MANAGEMENT_KEY_PREFIXES` and from what
`secret` says a key is, so a rule and the keys that it looks for can't drift apart. Nothing here is
secret: the format of a key helps whoever finds one to say whose it is, and nobody to guess one.
"""

import json

from django.conf import settings
from django.urls import reverse

from keyportal.keys import keystring

RULE_ID = "keyportal-api-key"
# A letter or digit before a prefix doesn't unmake a key; one after its end does.
KEY_END = r"(?:\b|_)"


def regex() -> str:
    """Finds keys of either kind wherever they stand, the key itself in group 1.

    RE2 and Python's `re` take it. It also finds look-alikes, of which the checksum tells one in
    four billion from a key.
    """
    return f"({keystring.pattern(keystring.all_prefixes())}){KEY_END}"


def example() -> str:
    """Well-formed, and nobody's: for a form that wants to see its pattern match."""
    zeros = "0" * (keystring.PUBLIC_LENGTH + keystring.SECRET_LENGTH)
    body = f"{settings.KEY_PREFIXES[0]}{zeros}"
    return body + keystring.checksum(body.encode()).decode()


def gitleaks() -> str:
    """A whole configuration in TOML, which adds one rule to those that gitleaks brings."""
    return f"""\
# gitleaks dir . --config gitleaks.toml
title = "API and management keys of {_service_name()}"

[extend]
useDefault = true

[[rules]]
id = "{RULE_ID}"
description = "API or management key of {_service_name()}. Report it: {report_url()}"
regex = '''{regex()}'''
secretGroup = 1
keywords = {json.dumps(_keywords())}
"""


def trufflehog() -> str:
    """A configuration in YAML with one custom detector."""
    keywords = "\n".join(f"      - {json.dumps(word)}" for word in _keywords())
    return f"""\
# trufflehog filesystem . --config trufflehog.yaml --no-verification
# API and management keys of {_service_name()}. Report one: {report_url()}
detectors:
  - name: {RULE_ID}
    keywords:
{keywords}
    regex:
      key: '{regex()}'
"""


def github() -> dict[str, str]:
    """The fields of a custom pattern of GitHub's secret scanning; Hyperscan reads them."""
    return {
        "pattern_name": f"API or management key of {_service_name()}",
        "secret_format": keystring.pattern(keystring.all_prefixes()),
        "before_secret": r"\A|[^0-9A-Za-z]",
        "after_secret": r"\z|[^0-9A-Za-z]",
        "test_string": example(),
    }


def description() -> dict[str, object]:
    """All of it, for programs."""
    return {
        "prefixes": list(keystring.all_prefixes()),
        "alphabet": keystring.ALPHABET,
        "parts": {
            "public_id": keystring.PUBLIC_LENGTH,
            "secret": keystring.SECRET_LENGTH,
            "checksum": keystring.CHECKSUM_LENGTH,
        },
        "checksum": "CRC-32 (zlib) of all before it, in the alphabet's digits, zero-padded",
        "regex": regex(),
        "example": example(),
        "github_custom_pattern": github(),
        "report": report_url(),
    }


def checker() -> str:
    """A program without dependencies that tells keys from look-alikes, offline."""
    return f'''\
#!/usr/bin/env python3
"""Which API and management keys of {_service_name()} stand in these files, or on standard input?

    python3 check_keys.py FILE...

Prints where, and the public part alone. Exit code 1 when there is one. Nothing is sent anywhere.
"""

import re
import sys
import zlib

KEY = re.compile({regex()!r}, re.ASCII)  # Else letters of any script would end no key.
ALPHABET = {keystring.ALPHABET!r}


def is_key(text):
    number, digits = zlib.crc32(text[:-{keystring.CHECKSUM_LENGTH}].encode()), ""
    for _ in range({keystring.CHECKSUM_LENGTH}):
        number, digit = divmod(number, {len(keystring.ALPHABET)})
        digits = ALPHABET[digit] + digits
    return digits == text[-{keystring.CHECKSUM_LENGTH}:]


def main(names):
    found = False
    for name in names or ["-"]:
        with open(0 if name == "-" else name, encoding="utf-8", errors="replace") as lines:
            for number, line in enumerate(lines, 1):
                for key in filter(is_key, KEY.findall(line)):
                    found = True
                    print(f"{{name}}:{{number}}: {{key[:-{keystring.SECRET_LENGTH + keystring.CHECKSUM_LENGTH}]}}...")
    return found


sys.exit(main(sys.argv[1:]))
'''  # noqa: E501 - the line is one of the program's.


def report_url() -> str:
    return f"{settings.PUBLIC_URL}{reverse('leaks:report')}"


def _service_name() -> str:
    return settings.PUBLIC_URL or "Keyportal"


def _keywords() -> list[str]:
    """A file must hold one for the rule to be tried; both tools look in lower case."""
    return [prefix.lower() for prefix in keystring.all_prefixes()]
