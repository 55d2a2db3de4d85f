"""A directory that provisions people and groups."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from pytest_django import Settings

TOKEN = "a-token-of-the-directory-with-enough-characters"
ROOT = "/api/scim/v2/"
Directory = Callable[..., Any]


@pytest.fixture
def directory(settings: Settings) -> Directory:
    """Send a request and return the response, whose body is in `data`."""
    settings.SCIM_TOKENS = ["older-" + TOKEN, TOKEN]

    def send(method: str, path: str, body: object = None, **more: Any) -> Any:
        headers = more.pop("headers", {"Authorization": f"Bearer {TOKEN}"})
        content = body if isinstance(body, str) else json.dumps(body)
        answer: Any = Client().generic(
            method,
            ROOT + path,
            "" if body is None else content,
            content_type="application/scim+json",
            headers=headers,
            query_params=more,
        )
        if answer.content:
            assert answer["Content-Type"] == "application/scim+json"
        answer.data = json.loads(answer.content) if answer.content else None
        return answer

    return send
