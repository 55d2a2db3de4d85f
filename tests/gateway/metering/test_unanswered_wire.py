"""What reaches a model server counts, also if nobody waits for the answer or it fails."""

import base64
import json
from collections.abc import Callable, Iterator

import pytest

from keyportal.gateway.metering.estimates import BYTES_PER_TOKEN, MEDIA_TOKENS
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from keyportal.usage.models import Call, UsageDay
from tests.support import model_responses
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import Server, chat_body, free_port, wait_until

pytestmark = pytest.mark.gateway
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]
PROMPT = "word " * 40_000


@pytest.fixture
def release(fake: FakeUpstream) -> Iterator[None]:
    fake.released.clear()
    yield
    fake.released.set()


def call_of(key: ApiKey) -> Call:
    calls = Call.objects.filter(public_id=key.public_id)
    wait_until(calls.exists)
    return calls.get()


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_count_whose_clients_hang_up(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream, stream: bool
) -> None:
    """Attack: a client hangs up before each answer, so a token limit would be none for it."""
    key, text = issue(alice)
    model = serve_model("stall")
    received = len(fake.received)
    messages = [{"role": "user", "content": PROMPT}]
    for number in range(1, 4):
        with live.connect() as connection:
            connection.chat(text, model, messages=messages, stream=stream)
            wait_until(lambda: len(fake.received) == received + number)  # noqa: B023
    calls = Call.objects.filter(public_id=key.public_id)
    wait_until(lambda: calls.count() == 3)
    size = len(json.dumps(chat_body(model, messages=messages)))
    for call in calls:
        assert call.status == 499
        assert call.is_estimated
        assert call.completion_tokens == 0
        assert call.prompt_tokens == pytest.approx(size / BYTES_PER_TOKEN, rel=0.01)
    day = UsageDay.objects.get(public_id=key.public_id)
    assert day.prompt_tokens == sum(call.prompt_tokens for call in calls)
    assert (day.estimated_requests, day.failures) == (3, 3)


def test_a_token_limit_holds_for_a_client_that_hangs_up(
    live: Server, alice: User, issue: Issue, serve_model: Serve, fake: FakeUpstream
) -> None:
    key, text = issue(alice, limits={"tokens_per_day": 40_000})
    model, received = serve_model("stall"), len(fake.received)
    with live.connect() as connection:
        connection.chat(text, model, messages=[{"role": "user", "content": PROMPT}])
        wait_until(lambda: len(fake.received) == received + 1)
    wait_until(Call.objects.filter(public_id=key.public_id).exists)
    assert live.chat(text, model).status == 429


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("behaviour", "status"), [("half", 502), ("hang_up", 502), ("trickle_head", 504)]
)
def test_a_prompt_counts_whose_answer_fails(
    live: Server, alice: User, issue: Issue, serve_model: Serve, behaviour: str, status: int
) -> None:
    key, text = issue(alice)
    assert live.chat(text, serve_model(behaviour, read_timeout=1)).status == status
    call = call_of(key)
    assert (call.status, call.is_estimated, call.completion_tokens) == (status, True, 0)
    assert call.prompt_tokens > 10


@pytest.mark.any_database
@pytest.mark.parametrize("behaviour", ["status:400", "status:429", "status:500", "status:401"])
def test_a_prompt_that_a_model_server_refuses_does_not_count(
    live: Server, alice: User, issue: Issue, serve_model: Serve, behaviour: str
) -> None:
    key, text = issue(alice)
    live.chat(text, serve_model(behaviour))
    call = call_of(key)
    assert call.status >= 400
    assert (call.prompt_tokens, call.is_estimated) == (0, False)


@pytest.mark.any_database
def test_a_prompt_that_reaches_no_model_server_does_not_count(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    nowhere = serve_model("normal", base_url=f"http://127.0.0.1:{free_port()}/v1")
    assert live.chat(text, nowhere).status == 502
    call = call_of(key)
    assert (call.prompt_tokens, call.is_estimated) == (0, False)


@pytest.mark.any_database
def test_a_picture_counts_a_fixed_sum(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    url = "data:image/png;base64," + base64.b64encode(bytes(300_000)).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}]
    model = serve_model("text:{}")
    assert live.chat(text, model, messages=[{"role": "user", "content": content}]).status == 200
    call = call_of(key)
    assert call.is_estimated
    assert MEDIA_TOKENS < call.prompt_tokens < MEDIA_TOKENS + 100


@pytest.mark.any_database
def test_an_error_in_a_stream_makes_the_call_a_failure(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    reply = live.chat(text, serve_model("error_event"), stream=True)
    assert reply.status == 200
    assert b"CUDA error" in reply.body
    assert call_of(key).status == 502
    assert UsageDay.objects.get(public_id=key.public_id).failures == 1


@pytest.mark.any_database
@pytest.mark.usefixtures("release")
def test_a_client_that_leaves_after_the_last_event_has_not_failed(
    live: Server, alice: User, issue: Issue, serve_model: Serve
) -> None:
    key, text = issue(alice)
    with live.connect() as connection:
        connection.chat(text, serve_model("linger"), stream=True)
        connection.read_head()
        received = b""
        while b"[DONE]" not in received:
            received += connection.chunk()
    call = call_of(key)
    assert (call.status, call.is_estimated) == (200, False)
    assert (call.prompt_tokens, call.completion_tokens) == (
        model_responses.PROMPT,
        model_responses.COMPLETION,
    )
    assert call.cached_tokens == model_responses.CACHED
    assert UsageDay.objects.get(public_id=key.public_id).failures == 0
