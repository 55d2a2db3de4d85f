"""GitHub's secret scanning, as it calls whoever it found a secret of."""

import json
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyportal.leaks.github import IDENTIFIER_HEADER, SIGNATURE_HEADER

IDENTITY = "bcb53661c06b4728e59d897fb6165d5c9cda0fd9cdf9d09ead458168deb7518c"
URL = "https://github.com/octocat/hello/blob/0123456789abcdef/src/config.py"


class GitHub:
    """Signs with a key of its own; `publish` writes the file that an operator would fetch."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    def publish(self, folder: Path) -> str:
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        key = {"key_identifier": IDENTITY, "key": pem.decode(), "is_current": True}
        file = folder / "github_keys.json"
        file.write_text(json.dumps({"public_keys": [key]}))
        return str(file)

    def headers(self, body: bytes, identity: str = IDENTITY) -> dict[str, str]:
        signature = self.key.sign(body, ec.ECDSA(SHA256()))
        return {
            "Content-Type": "application/json",
            IDENTIFIER_HEADER: identity,
            SIGNATURE_HEADER: b64encode(signature).decode(),
        }


def payload(*keys: str, url: str = URL) -> bytes:
    matches = [
        {"token": key, "type": "keyportal_api_key", "url": url, "source": "content"} for key in keys
    ]
    return json.dumps(matches).encode()
