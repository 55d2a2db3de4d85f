"""GitHub's secret scanning, as it reports leaked keys to their issuer: signed requests."""

import json
from base64 import b64encode
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyportal.leaks.github import IDENTIFIER_HEADER, SIGNATURE_HEADER

KEY_IDENTIFIER = "bcb53661c06b4728e59d897fb6165d5c9cda0fd9cdf9d09ead458168deb7518c"
URL = "https://github.com/octocat/hello/blob/0123456789abcdef/src/config.py"


class GitHubScanner:
    """Signs with its own key pair; `publish` writes the file of public keys that GitHub offers."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())

    def publish(self, folder: Path) -> str:
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        key = {"key_identifier": KEY_IDENTIFIER, "key": pem.decode(), "is_current": True}
        file = folder / "github_keys.json"
        file.write_text(json.dumps({"public_keys": [key]}))
        return str(file)

    def headers(self, body: bytes, identity: str = KEY_IDENTIFIER) -> dict[str, str]:
        signature = self.key.sign(body, ec.ECDSA(SHA256()))
        return {
            "Content-Type": "application/json",
            IDENTIFIER_HEADER: identity,
            SIGNATURE_HEADER: b64encode(signature).decode(),
        }


def report_body(*keys: str, url: str = URL) -> bytes:
    matches = [
        {"token": key, "type": "keyportal_api_key", "url": url, "source": "content"} for key in keys
    ]
    return json.dumps(matches).encode()
