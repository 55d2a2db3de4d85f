"""Programs that manage: requests with a management key, and what they are refused with."""

import json
from collections.abc import Callable
from typing import Any

from django.test import Client

from keyportal.api.models import ManagementKey

Manager = Callable[..., "Program"]


class Program:
    """Calls the management API; `token` is its management key, or whatever it has instead."""

    def __init__(self, token: str | None, key: ManagementKey | None = None) -> None:
        self.token = token
        self._key = key
        self._client = Client(raise_request_exception=False)

    @property
    def key(self) -> ManagementKey:
        assert self._key
        return self._key

    def get(self, path: str, **headers: str) -> Any:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: object = None, **headers: str) -> Any:
        return self.ask("POST", path, body, headers=headers)

    def patch(self, path: str, body: object) -> Any:
        return self.ask("PATCH", path, body)

    def delete(self, path: str) -> Any:
        return self.ask("DELETE", path)

    def ask(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> Any:
        """A body that is not bytes is sent as JSON; header names are in Python's spelling."""
        sent = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if self.token is not None:
            sent.setdefault("Authorization", f"Bearer {self.token}")
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body)
        kind = sent.pop("Content-Type", "application/json" if data else "")
        return self._client.generic(
            method, f"/api/v1/{path}", data, content_type=kind, headers=sent
        )


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    """The answer is this problem, whole; returns its body."""
    assert answer["Content-Type"] == "application/problem+json", answer.content
    told: dict[str, Any] = answer.json()
    assert (answer.status_code, told["status"]) == (status, status), told
    assert told["type"] == f"urn:keyportal:problem:{code}"
    assert told["title"]
    assert told["detail"]
    assert told["request_id"] == answer["X-Request-Id"]
    assert answer["Cache-Control"] == "no-store"
    return told
