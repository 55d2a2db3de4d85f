"""A client of the management API, and a check of its error responses."""

import json
from collections.abc import Callable
from typing import Any

from django.test import Client

from keyportal.api.models import ManagementKey

NewApiClient = Callable[..., "ApiClient"]


class ApiClient:
    """Sends requests with `token` as bearer token: a management key string, or something else."""

    def __init__(self, token: str | None, key: ManagementKey | None = None) -> None:
        self.token = token
        self._key = key
        self.client = Client(raise_request_exception=False)

    @property
    def key(self) -> ManagementKey:
        assert self._key
        return self._key

    def get(self, path: str, **headers: str) -> Any:
        return self.request("GET", path, headers=headers)

    def post(self, path: str, body: object = None, **headers: str) -> Any:
        return self.request("POST", path, body, headers=headers)

    def patch(self, path: str, body: object) -> Any:
        return self.request("PATCH", path, body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)

    def request(
        self, method: str, path: str, body: object = None, *, headers: dict[str, str] | None = None
    ) -> Any:
        """Send a body that is not bytes as JSON. Header names have `_` in place of `-`."""
        sent_headers = {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        if self.token is not None:
            sent_headers.setdefault("Authorization", f"Bearer {self.token}")
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body)
        content_type = sent_headers.pop("Content-Type", "application/json" if data else "")
        return self.client.generic(
            method, f"/api/v1/{path}", data, content_type=content_type, headers=sent_headers
        )


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """Assert that the response is this problem in the form of RFC 9457; return its body."""
    assert response["Content-Type"] == "application/problem+json", response.content
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["status"]) == (status, status), problem
    assert problem["type"] == f"urn:keyportal:problem:{code}"
    assert problem["title"]
    assert problem["detail"]
    assert problem["request_id"] == response["X-Request-Id"]
    assert response["Cache-Control"] == "no-store"
    return problem
