"""The gateway as programs meet it: a real gunicorn, real HTTP, the official client."""

from collections.abc import Callable

import openai
import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from tests.serving import Server

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]


def client(server: Server, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=10)


def test_official_client_chats(live: Server, alice: User, issue: Issue, model: ServedModel) -> None:
    _, key = issue(alice)
    with client(live, key) as ai:
        answer = ai.chat.completions.create(
            model=model.name, messages=[{"role": "user", "content": "Hello, model!"}]
        )
    assert "not a language model" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2
    words = (answer.choices[0].message.content or "").split()
    assert answer.usage.completion_tokens == len(words)
