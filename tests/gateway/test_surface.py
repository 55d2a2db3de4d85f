"""Every endpoint with OpenAI's client: buffered, streamed, and its error classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys import keystring
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from keyportal.usage.models import Call
from tests.support import model_responses
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.fake_upstream import form_parts
from tests.support.lazy import LazyModule
from tests.support.model_responses import COMPLETION, PROMPT, TEXT, WORDS
from tests.support.server import Server, wait_until

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
HELLO = "Hello, model!"


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


@pytest.fixture
def name(serve_model: Serve) -> str:
    return serve_model("normal")


@pytest.fixture
def ai(live: Server, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as client:
        yield client


def last_call(fake: FakeUpstream) -> tuple[str, str]:
    """The path and the model of the upstream's last call."""
    return fake.received[-1].path, json.loads(fake.received[-1].body)["model"]


def test_chat(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    messages: Any = [{"role": "user", "content": HELLO}]
    answer = ai.chat.completions.create(model=name, messages=messages)
    assert answer.choices[0].message.content == TEXT
    assert answer.usage is not None
    assert answer.usage.completion_tokens == COMPLETION
    chunks: Any = ai.chat.completions.create(model=name, messages=messages, stream=True)
    assert [chunk.choices[0].delta.content for chunk in chunks][:-1] == WORDS
    assert last_call(fake) == ("/v1/chat/completions", "normal")


def test_responses(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    answer = ai.responses.create(model=name, input=HELLO)
    assert answer.output_text == TEXT
    assert answer.usage is not None
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (PROMPT, COMPLETION)
    assert last_call(fake) == ("/v1/responses", "normal")


def test_responses_streamed(ai: openai.OpenAI, name: str) -> None:
    with ai.responses.stream(model=name, input=HELLO) as stream:
        said = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert said == WORDS
    assert final.usage is not None
    assert final.usage.output_tokens == COMPLETION


def test_moderations(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    assert ai.moderations.create(model=name, input=HELLO).results[0].flagged
    assert last_call(fake) == ("/v1/moderations", "normal")


def test_rerank(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    """No official client has this endpoint; OpenAI's client can call it like this."""
    body = {"model": name, "query": HELLO, "documents": ["a", "b"]}
    answer = ai.post("/rerank", body=body, cast_to=object)
    assert answer == model_responses.FULL_RESPONSES["/v1/rerank"]
    assert last_call(fake) == ("/v1/rerank", "normal")


def test_images(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    answer = ai.images.generate(model=name, prompt=HELLO)
    assert answer.data is not None
    assert answer.data[0].b64_json == "aW1hZ2U="
    assert last_call(fake) == ("/v1/images/generations", "normal")


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_images_are_edited_and_varied(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    picture = ("a.png", b"picture", "image/png")
    edited = ai.images.edit(model=name, prompt=HELLO, image=[picture, picture], mask=picture)
    varied = ai.images.create_variation(model=name, image=picture)
    for answer, path in ((edited, "/v1/images/edits"), (varied, "/v1/images/variations")):
        assert answer.data is not None
        assert answer.data[0].b64_json == "aW1hZ2U="
        assert path in [received.path for received in fake.received]
    assert [part[:2] for part in form_parts(fake.received[0])] == [
        ("model", None),
        ("prompt", None),
        ("image[]", "a.png"),
        ("image[]", "a.png"),
        ("mask", "a.png"),
    ]


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")
def test_speech_is_translated(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    assert ai.audio.translations.create(model=name, file=("a.mp3", b"sound")).text == TEXT
    assert fake.received[-1].path == "/v1/audio/translations"


def test_background_answers_are_refused(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    with pytest.raises(openai.BadRequestError, match="without `background`"):
        ai.responses.create(model=name, input=HELLO, background=True)
    assert fake.received == []


def test_speech(ai: openai.OpenAI, name: str, fake: FakeUpstream) -> None:
    """Binary, byte for byte, buffered and streamed."""
    wanted = {"model": name, "input": HELLO, "voice": "alloy"}
    assert ai.audio.speech.create(**wanted).content == model_responses.SPEECH  # type: ignore[arg-type]
    with ai.audio.speech.with_streaming_response.create(**wanted) as answer:  # type: ignore[arg-type]
        assert answer.headers["content-type"] == "audio/mpeg"
        assert b"".join(answer.iter_bytes()) == model_responses.SPEECH
    assert last_call(fake) == ("/v1/audio/speech", "normal")


@pytest.mark.parametrize("base", ["", "/", "/v1", "/v1/", "/v1/v1", "//v1/", "/openai/v1"])
def test_openais_client_may_have_another_base_url(
    live: Server, key: str, name: str, fake: FakeUpstream, base: str
) -> None:
    with openai.OpenAI(base_url=live.url + base, api_key=key, max_retries=0) as ai:
        assert ai.chat.completions.create(model=name, messages=[]).id == "chatcmpl-1"
        assert last_call(fake) == ("/v1/chat/completions", "normal")
        assert ai.responses.create(model=name, input=HELLO).output_text == TEXT
        assert last_call(fake) == ("/v1/responses", "normal")
        assert ai.embeddings.create(model=name, input=HELLO).data[0].embedding
        assert last_call(fake) == ("/v1/embeddings", "normal")
        assert [model.id for model in ai.models.list()] == [name]
        assert ai.models.retrieve(name).id == name


def test_an_unknown_address_raises_the_clients_exception(live: Server, key: str) -> None:
    wrong = f"{live.url}/llm/api"
    told = f"base URL to {live.url}/v1"
    with (
        openai.OpenAI(base_url=wrong, api_key=key, max_retries=0) as ai,
        pytest.raises(openai.NotFoundError, match=told) as caught,
    ):
        ai.chat.completions.create(model="any", messages=[])
    assert caught.value.code == "unknown_url"


@pytest.fixture
def azure(live: Server, key: str) -> Iterator[openai.AzureOpenAI]:
    """It sends the key as `api-key`, and the model's name in the path, its slash as `%2F`."""
    with openai.AzureOpenAI(
        azure_endpoint=live.url, api_key=key, api_version="2024-10-21", max_retries=0
    ) as client:
        yield client


def test_azures_client(azure: openai.AzureOpenAI, name: str, fake: FakeUpstream) -> None:
    hello: Any = [{"role": "user", "content": HELLO}]
    answer = azure.chat.completions.create(model=name, messages=hello)
    assert answer.choices[0].message.content == TEXT
    assert last_call(fake) == ("/v1/chat/completions", "normal")
    chunks: Any = azure.chat.completions.create(model=name, messages=hello, stream=True)
    assert [chunk.choices[0].delta.content for chunk in chunks][:-1] == WORDS
    assert azure.embeddings.create(model=name, input=HELLO).data[0].embedding
    assert last_call(fake) == ("/v1/embeddings", "normal")
    assert azure.responses.create(model=name, input=HELLO).output_text == TEXT
    assert last_call(fake) == ("/v1/responses", "normal")
    speech = azure.audio.speech.create(model=name, input=HELLO, voice="alloy")
    assert speech.content == model_responses.SPEECH
    assert last_call(fake) == ("/v1/audio/speech", "normal")
    assert azure.images.generate(model=name, prompt=HELLO).data
    assert last_call(fake) == ("/v1/images/generations", "normal")
    form = {"model": name, "file": ("a.wav", b"RIFF")}
    assert azure.audio.transcriptions.create(**form).text == TEXT  # type: ignore[call-overload]
    assert fake.received[-1].path == "/v1/audio/transcriptions"
    assert [model.id for model in azure.models.list()] == [name]
    assert all("api-version" not in str(call) for call in fake.received)
    assert all("Api-Key" not in call.headers for call in fake.received)
    with pytest.raises(openai.NotFoundError, match="GET /v1/models"):
        azure.chat.completions.create(model="public/nothing", messages=hello)


def test_azures_client_with_a_fixed_deployment(
    live: Server, key: str, name: str, fake: FakeUpstream
) -> None:
    """The path has the name as it is, with its slash; another model in the body is refused."""
    with openai.AzureOpenAI(
        azure_endpoint=live.url,
        azure_deployment=name,
        api_key=key,
        api_version="2024-10-21",
        max_retries=0,
    ) as client:
        assert client.chat.completions.create(model=name, messages=[]).id == "chatcmpl-1"
        form = {"model": name, "file": ("a.wav", b"RIFF")}
        assert client.audio.transcriptions.create(**form).text == TEXT  # type: ignore[call-overload]
        with pytest.raises(openai.BadRequestError, match="different models"):
            client.chat.completions.create(model="public/other", messages=[])
        with pytest.raises(openai.BadRequestError, match="different models"):
            client.audio.transcriptions.create(**form | {"model": "public/other"})  # type: ignore[call-overload]
    assert len(fake.received) == 2


def test_a_form_without_a_model_calls_the_deployment(
    live: Server, key: str, name: str, fake: FakeUpstream
) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\nHi\r\n--x--\r\n'
    headers = {"api-key": key, "Content-Type": "multipart/form-data; boundary=x"}
    path = f"/openai/deployments/{name}/audio/transcriptions"
    assert live.request("POST", path, headers=headers, body=form).status == 200
    sent = {field: content for field, _, content in form_parts(fake.received[-1])}
    assert sent == {"model": b"normal", "prompt": b"Hi"}


@pytest.mark.parametrize("path", ["/v2/rerank", "/v1/rerank", "/rerank"])
def test_cohere_reranks(
    live: Server, key: str, serve_model: Serve, fake: FakeUpstream, path: str
) -> None:
    """Its answers have no `usage`, but `meta.billed_units`."""
    answer = {
        "id": "r-1",
        "results": [{"index": 1, "relevance_score": 0.9}],
        "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}},
    }
    name = serve_model(f"text:{json.dumps(answer)}")
    body = {"model": name, "query": HELLO, "documents": ["a", "b"], "top_n": 1}
    reply = live.request("POST", path, key=key, body=body)
    assert (reply.status, reply.json()) == (200, answer)
    assert fake.received[-1].path == "/v1/rerank"
    assert json.loads(fake.received[-1].body)["documents"] == ["a", "b"]
    calls = Call.objects.filter(public_id=keystring.public_id_of(key.encode()))
    wait_until(calls.exists)
    call = calls.get()
    assert (call.endpoint, call.status, call.completion_tokens) == ("/rerank", 200, 0)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequestError"),
        (409, "ConflictError"),
        (422, "UnprocessableEntityError"),
        (429, "RateLimitError"),
        (500, "InternalServerError"),
    ],
)
def test_upstream_error_raises_the_clients_exception(
    ai: openai.OpenAI, serve_model: Serve, status: int, kind: str
) -> None:
    with pytest.raises(getattr(openai, kind)) as caught:
        ai.responses.create(model=serve_model(f"status:{status}"), input=HELLO)
    assert caught.value.body == {
        "message": "The upstream's own words.",
        "type": "upstream",
        "code": "its_own",
    }


def test_a_stream_that_breaks_raises_in_openais_client(
    ai: openai.OpenAI, serve_model: Serve
) -> None:
    stream = ai.responses.create(model=serve_model("break"), input=HELLO, stream=True)
    with pytest.raises(openai.APIError, match="broke off"):
        list(stream)


def test_the_built_in_model_answers_at_three_endpoints_and_refuses_the_others(
    ai: openai.OpenAI, model: ServedModel
) -> None:
    hello: Any = [{"role": "user", "content": HELLO}]
    chat = ai.chat.completions.create(model=model.name, messages=hello)
    assert "not a language model" in str(chat.choices[0].message.content)
    completion = ai.completions.create(model=model.name, prompt=HELLO)
    assert "not a language model" in completion.choices[0].text
    assert ai.embeddings.create(model=model.name, input=HELLO).data[0].embedding
    with pytest.raises(openai.BadRequestError, match="doesn't serve /v1/moderations"):
        ai.moderations.create(model=model.name, input=HELLO)
    with pytest.raises(openai.BadRequestError, match="doesn't serve /v1/responses"):
        ai.responses.create(model=model.name, input=HELLO)
