"""An OpenID provider on loopback that misbehaves on demand, which the one from PyPI can't.

It refuses what a real one refuses: a wrong secret, redirect address or PKCE verifier.
"""

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

CLIENT_ID, CLIENT_SECRET = "keyportal", "s3cret:%&"


@cache
def private_key(key_id: str) -> rsa.RSAPrivateKey:
    """Made by the first test that needs it, because it takes long. The provider lists the key 1."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class ForgingProvider(ThreadingHTTPServer):
    """By default, everything is right. A value of None in `claims` removes the claim."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server_port}"
        self.reset()

    def reset(self) -> None:
        self.claims: dict[str, Any] = {}
        self.user_info: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.key: Any = private_key("1")
        self.algorithm: str = "RS256"
        self.key_id: str | None = "1"
        self.bodies: dict[str, tuple[int, bytes]] = {}
        """Answers at these paths instead of its own."""
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.query: dict[str, str] = {}
        """Of the last request for authorization."""

    def authorize(self, url: str) -> dict[str, str]:
        """What a browser would carry back to the callback."""
        self.query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
        return {"state": self.query["state"], "code": "a-code"}

    def token(self) -> str:
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT_ID,
            "sub": "sub-1",
            "iat": now,
            "exp": now + 300,
            "nonce": self.query.get("nonce"),
            "email": "dora@example.com",
            "email_verified": True,
            **self.claims,
        }
        claims = {name: value for name, value in claims.items() if value is not None}
        headers = {"kid": self.key_id} if self.key_id else {}
        return jwt.encode(claims, self.key, self.algorithm, headers)

    def answer(self, path: str, form: dict[str, str], authorization: str) -> tuple[int, bytes]:
        if path in self.bodies:
            return self.bodies[path]
        if path == "/token":
            return self._exchange(form, authorization)
        documents = {
            "/.well-known/openid-configuration": {
                "issuer": self.issuer,
                "authorization_endpoint": f"{self.issuer}/authorize",
                "token_endpoint": f"{self.issuer}/token",
                "jwks_uri": f"{self.issuer}/jwks",
                "userinfo_endpoint": f"{self.issuer}/userinfo",
                **self.metadata,
            },
            "/jwks": {"keys": [_public(private_key("1"), "1")]},
            "/userinfo": {"sub": "sub-1", **self.user_info},
        }
        document = documents.get(path)
        return (200, json.dumps(document).encode()) if document else (404, b"")

    def _exchange(self, form: dict[str, str], authorization: str) -> tuple[int, bytes]:
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        basic = base64.b64encode(f"{CLIENT_ID}:s3cret%3A%25%26".encode()).decode()
        is_known = authorization == f"Basic {basic}" or form.get("client_secret") == CLIENT_SECRET
        if not is_known:
            return 401, b'{"error": "invalid_client"}'
        is_right = (
            form.get("code") == "a-code"
            and form.get("redirect_uri") == self.query.get("redirect_uri")
            and challenge == self.query.get("code_challenge")
        )
        if not is_right:
            return 400, b'{"error": "invalid_grant"}'
        answer = {"access_token": "an-access-token", "id_token": self.token(), "expires_in": "x"}
        return 200, json.dumps(answer).encode()


def _public(key: rsa.RSAPrivateKey, key_id: str) -> dict[str, Any]:
    public = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": key_id, "use": "sig", "alg": "RS256"}


class Handler(BaseHTTPRequestHandler):
    server: ForgingProvider

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer({name: values[0] for name, values in parse_qs(body).items()})

    def _answer(self, form: dict[str, str]) -> None:
        self.server.requests.append((self.path, form))
        status, body = self.server.answer(
            urlsplit(self.path).path, form, self.headers.get("Authorization", "")
        )
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base names it so
        """Log nothing."""


@contextmanager
def running() -> Iterator[ForgingProvider]:
    with ForgingProvider() as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
