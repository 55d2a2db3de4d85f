"""The format of keys, and rules for secret scanners that find them.

All of it is generated from `KEYPORTAL_KEY_PREFIXES`, `KEYPORTAL_MANAGEMENT_KEY_PREFIXES` and
`keystring`, so rules and keys can't drift apart. Nothing here is secret: knowing the format doesn't
help to guess a key.
"""

import json
from urllib.parse import urljoin

from django.conf import settings
from django.urls import reverse

from keyportal.keys import keystring

RULE_ID = "keyportal-api-key"
# A key may follow a letter or digit directly, but none may follow the key.
KEY_END = r"(?:\b|_)"


def regex() -> str:
    """Finds keys of both kinds in text; group 1 is the key.

    For RE2 and Python's `re`. It also finds look-alikes; one in four billion of them passes the
    checksum.
    """
    return f"({keystring.pattern(keystring.all_prefixes())}){KEY_END}"


def example() -> str:
    """A well-formed key that does not exist, for forms that ask for a test string."""
    zeros = "0" * (keystring.PUBLIC_LENGTH + keystring.SECRET_LENGTH)
    body = f"{settings.KEY_PREFIXES[0]}{zeros}"
    return body + keystring.checksum(body.encode()).decode()


def gitleaks() -> str:
    """A complete configuration in TOML, which adds one rule to the default rules of gitleaks."""
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
    """The fields of a custom pattern in GitHub's secret scanning, for Hyperscan."""
    return {
        "pattern_name": f"API or management key of {_service_name()}",
        "secret_format": keystring.pattern(keystring.all_prefixes()),
        "before_secret": r"\A|[^0-9A-Za-z]",
        "after_secret": r"\z|[^0-9A-Za-z]",
        "test_string": example(),
    }


def description() -> dict[str, object]:
    """The format and the rules, for programs."""
    return {
        "prefixes": list(keystring.all_prefixes()),
        "alphabet": keystring.ALPHABET,
        "parts": {
            "public_id": keystring.PUBLIC_LENGTH,
            "secret": keystring.SECRET_LENGTH,
            "checksum": keystring.CHECKSUM_LENGTH,
        },
        "checksum": "CRC-32 (zlib) of all characters before it, in base 62, zero-padded",
        "regex": regex(),
        "example": example(),
        "github_custom_pattern": github(),
        "report": report_url(),
    }


def checker() -> str:
    """A Python program without dependencies that verifies the checksum, offline."""
    return f'''\
#!/usr/bin/env python3
"""Finds API and management keys of {_service_name()} in files, or on standard input.

    python3 check_keys.py FILE...

Prints the place and only the public part of each key. Exits with 1 if it finds a key. Sends
nothing over the network.
"""

import re
import sys
import zlib

KEY = re.compile({regex()!r}, re.ASCII)  # Otherwise \\b treats letters of all scripts as part of a word.
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
'''  # noqa: E501 - the long line belongs to the program


def report_url() -> str:
    return urljoin(settings.PUBLIC_URL, reverse("leaks:report"))


def _service_name() -> str:
    return settings.PUBLIC_URL or "Keyportal"


def _keywords() -> list[str]:
    """A tool applies the rule only to files that contain one of these; it compares lower case."""
    return [prefix.lower() for prefix in keystring.all_prefixes()]
