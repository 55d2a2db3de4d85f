"""The gateway over real HTTP: gunicorn, the official client, curl."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.models import Team, User
from tests.support.lazy import LazyModule
from tests.support.server import Server

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]


def client(server: Server, key: str, timeout: float = 10) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0, timeout=timeout)


def chat(ai: openai.OpenAI, model: str) -> object:
    return ai.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])


@pytest.mark.any_database
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


@pytest.mark.any_database
def test_official_client_streams_a_chat(
    live: Server, alice: User, issue: Issue, model: ServedModel
) -> None:
    _, key = issue(alice)
    with client(live, key) as ai:
        stream = ai.chat.completions.create(
            model=model.name,
            messages=[{"role": "user", "content": "Hello, model!"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    words = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "not a language model" in "".join(words)
    assert len(words) > 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len("".join(words).split())


@pytest.mark.any_database
def test_official_client_completes(
    live: Server, alice: User, issue: Issue, model: ServedModel
) -> None:
    _, key = issue(alice)
    with client(live, key) as ai:
        whole = ai.completions.create(model=model.name, prompt="Once upon a time")
        pieces = list(ai.completions.create(model=model.name, prompt="Once", stream=True))
    assert "not a language model" in whole.choices[0].text
    assert "not a language model" in "".join(piece.choices[0].text for piece in pieces)


@pytest.mark.any_database
def test_official_client_embeds(
    live: Server, alice: User, issue: Issue, model: ServedModel
) -> None:
    """The client requests base64 by default, and decodes it."""
    _, key = issue(alice)
    with client(live, key) as ai:
        packed = ai.embeddings.create(model=model.name, input=["one", "two"])
        plain = ai.embeddings.create(model=model.name, input="one", encoding_format="float")
    assert [item.index for item in packed.data] == [0, 1]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding


@pytest.mark.any_database
def test_official_client_lists_and_retrieves_models(
    live: Server, alice: User, issue: Issue, model: ServedModel, other_team: Team
) -> None:
    loopback = Upstream.objects.get(name="loopback")
    for name, team in (("public/open", None), (f"{other_team.slug}/theirs", other_team)):
        served = ServedModel.objects.create(name=name, team=team)
        Route.objects.create(model=served, upstream=loopback, upstream_model="loopback")
    ServedModel.objects.create(name="public/without-a-route")
    _, key = issue(alice)
    _, narrow = issue(alice, "narrow", permissions=Permissions(("public/open",)))
    with client(live, key) as ai:
        assert {listed.id for listed in ai.models.list()} == {model.name, "public/open"}
        found = ai.models.retrieve(model.name)
        assert (found.id, found.object, found.owned_by) == (model.name, "model", "u-8105f7322477")
        with pytest.raises(openai.NotFoundError):
            ai.models.retrieve(f"{other_team.slug}/theirs")
    with client(live, narrow) as ai:
        assert [listed.id for listed in ai.models.list()] == ["public/open"]
        with pytest.raises(openai.PermissionDeniedError):
            ai.models.retrieve(model.name)


@pytest.mark.any_database
def test_official_client_raises_its_exceptions(
    live: Server, alice: User, issue: Issue, model: ServedModel, serve_model: Serve
) -> None:
    _, key = issue(alice)
    _, narrow = issue(alice, "narrow", permissions=Permissions(("public/other",)))
    limited, broken = serve_model("status:429"), serve_model("hang_up")
    silent = serve_model("stall", name="silent", first_byte_timeout=1)
    expected: list[tuple[str, str, type[openai.APIStatusError], str]] = [
        ("sk-kp-" + "x" * 46, model.name, openai.AuthenticationError, "invalid_api_key"),
        ("not-one-of-ours", model.name, openai.AuthenticationError, "invalid_api_key"),
        (key, "u-8105f7322477/nothing", openai.NotFoundError, "model_not_found"),
        (narrow, model.name, openai.PermissionDeniedError, "model_not_allowed"),
        (key, limited, openai.RateLimitError, "its_own"),
        (key, broken, openai.InternalServerError, "upstream_failed"),
        (key, silent, openai.InternalServerError, "upstream_timeout"),
    ]
    for sent, name, error, code in expected:
        with client(live, sent) as ai, pytest.raises(error) as raised:
            chat(ai, name)
        assert raised.value.code == code
        if code != "its_own":
            assert raised.value.request_id is not None
            assert raised.value.request_id.startswith("req_")
    with client(live, key) as ai, pytest.raises(openai.BadRequestError):
        ai.chat.completions.create(model=model.name, messages=[{"role": 1}])  # type: ignore[typeddict-item]  # on purpose


@pytest.mark.any_database
def test_timeout_of_the_client(live: Server, alice: User, issue: Issue, serve_model: Serve) -> None:
    _, key = issue(alice)
    silent = serve_model("stall")
    with client(live, key, timeout=0.5) as ai, pytest.raises(openai.APITimeoutError):
        chat(ai, silent)


def test_the_documented_curl_call(
    live: Server, alice: User, issue: Issue, model: ServedModel
) -> None:
    """Literally, except for host and key."""
    _, key = issue(alice)
    command = f"""curl --silent --show-error '{live.url}/v1/chat/completions' \\
  -H "Content-Type: application/json" \\
  -H "Authorization: Bearer {key}" \\
  -d '{{
    "model": "u-8105f7322477/test",
    "messages": [{{"role": "user", "content": "Hello, model!"}}],
    "temperature": 0.7
  }}'"""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "not a language model" in done.stdout
