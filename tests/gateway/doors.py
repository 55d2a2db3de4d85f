"""A proxy that asks Keyportal, as its clients see it, with the configuration that we hand out."""

import http.client
import json
from pathlib import Path

from tests.serving import CHAT, Reply, chat_body

CLIENT = "127.0.0.2"


class Door:
    """The proxy's clients come from an address that nobody trusts."""

    def __init__(self, port: int) -> None:
        self.port = port

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(
            "127.0.0.1", self.port, timeout=30, source_address=(CLIENT, 0)
        )

    def ask(
        self, method: str, path: str, key: str | None, body: object = None, **headers: str
    ) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key:
            sent["Authorization"] = f"Bearer {key}"
        if body is not None:
            sent["Content-Type"] = "application/json"
        data = None if body is None else json.dumps(body).encode()
        client = self.connect()
        try:
            client.request(method, path, data, sent)
            answer = client.getresponse()
            pairs = [(name.lower(), value) for name, value in answer.getheaders()]
            assert len(dict(pairs)) == len(pairs), "a header stands twice"
            return Reply(answer.status, dict(pairs), answer.read())
        finally:
            client.close()

    def chat(self, key: str | None, behaviour: str = "echo", **headers: str) -> Reply:
        return self.ask("POST", CHAT, key, chat_body(behaviour), **headers)


def changed(file: Path, *changes: tuple[str, str]) -> str:
    """What stands in `file`, but for what its reader is told to change: each of it stands once."""
    text = file.read_text()
    for ours, theirs in changes:
        assert text.count(ours) == 1, ours
        text = text.replace(ours, theirs)
    return text


def is_refused_as_on_v1(reply: Reply, direct: Reply) -> None:
    """A caller of the proxy is told what Keyportal's own callers are told."""
    assert reply.status == direct.status
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers.get("www-authenticate") == direct.headers.get("www-authenticate")
    assert reply.headers.get("x-should-retry") == direct.headers.get("x-should-retry")
    assert ("retry-after" in reply.headers) == ("retry-after" in direct.headers)
    assert reply.json().keys() == direct.json().keys()
