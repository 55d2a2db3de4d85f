"""A model with several routes works while one of its upstreams fails."""

import json
import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from tests.support import fake_upstream
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.lazy import LazyModule
from tests.support.model_responses import TEXT
from tests.support.server import Reply, Server, free_port

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
OwnServer = Callable[..., Server]
NOBODY = "nobody"
SOUND = b"sound" * 100_000


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


@pytest.fixture
def serve_routes(team: Team, fake: FakeUpstream) -> Callable[..., str]:
    """Serve a model with one upstream per behaviour; `nobody` is a closed port."""

    def serve_routes(*behaviours: str) -> str:
        served = ServedModel.objects.create(name=f"{team.slug}/many", team=team)
        for number, behaviour in enumerate(behaviours):
            url = f"http://127.0.0.1:{free_port()}/v1" if behaviour == NOBODY else fake.url
            # With a unique name, because the server remembers the state of each upstream.
            server = Upstream.objects.create(
                name=f"{behaviour}-{number}-{secrets.token_hex(8)}", base_url=url
            )
            Route.objects.create(model=served, upstream=server, upstream_model=behaviour)
        return served.name

    return serve_routes


def called_models(fake: FakeUpstream) -> list[str]:
    return [json.loads(received.body)["model"] for received in fake.received]


@pytest.mark.parametrize("bad", ["status:500", "status:503", "status:429", NOBODY, "hang_up"])
def test_callers_do_not_notice_a_failing_upstream(
    live: Server, key: str, serve_routes: Callable[..., str], fake: FakeUpstream, bad: str
) -> None:
    name = serve_routes(bad, "normal")
    began = time.monotonic()
    for _ in range(20):
        reply = live.chat(key, name)
        assert reply.json()["choices"][0]["message"]["content"] == TEXT
        assert "retry-after" not in reply.headers
    assert called_models(fake).count("normal") == 20
    # Each of two workers calls it once, and once more after each second.
    assert len(fake.received) <= 20 + 2 * (2 + time.monotonic() - began)


def test_official_client_gets_the_last_failure(
    live: Server, key: str, serve_routes: Callable[..., str]
) -> None:
    name = serve_routes("status:503", "status:503")
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as ai:
        for _ in range(6):  # Also while both circuit breakers are open.
            with pytest.raises(openai.InternalServerError, match="own words"):
                ai.chat.completions.create(
                    model=name, messages=[{"role": "user", "content": "Hello"}]
                )


def test_stream_that_has_begun_is_not_retried(
    live: Server, key: str, serve_routes: Callable[..., str], fake: FakeUpstream
) -> None:
    name = serve_routes("break_midway", "break_midway")
    reply = live.chat(key, name, stream=True)
    assert reply.status == 200
    assert b"upstream_failed" in reply.body
    assert len(fake.received) == 1


def form(name: str, *, is_file_first: bool) -> bytes:
    head = b"--b\r\nContent-Disposition: form-data; name="
    file = head + b'"file"; filename="a"\r\n\r\n' + SOUND + b"\r\n"
    model = head + b'"model"\r\n\r\n' + name.encode() + b"\r\n"
    return (file + model if is_file_first else model + file) + b"--b--\r\n"


def upload(live: Server, key: str, body: bytes) -> Reply:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    return live.request("POST", "/v1/audio/transcriptions", key=key, body=body, headers=headers)


@pytest.mark.parametrize("is_file_first", [True, False])
@pytest.mark.parametrize("bad", ["first:status:503", "first:hang_up"])
def test_upload_is_retried_completely(
    live: Server,
    key: str,
    serve_routes: Callable[..., str],
    fake: FakeUpstream,
    is_file_first: bool,
    bad: str,
) -> None:
    form_ = form(serve_routes(bad, bad), is_file_first=is_file_first)
    assert upload(live, key, form_).status == 200
    assert [SOUND in received.body for received in fake.received] == [True, True]


def test_upload_needs_no_server_that_is_down(
    live: Server, key: str, serve_routes: Callable[..., str], fake: FakeUpstream
) -> None:
    name = serve_routes(NOBODY, NOBODY, NOBODY, "normal")
    assert upload(live, key, form(name, is_file_first=True)).status == 200
    assert [SOUND in received.body for received in fake.received] == [True]


def test_recovered_upstream_gets_calls_again(
    own_server: OwnServer, key: str, team: Team, fake: FakeUpstream
) -> None:
    server = own_server()
    served = ServedModel.objects.create(name=f"{team.slug}/back", team=team)
    with fake_upstream.running() as back:
        one = Upstream.objects.create(name="back", base_url=back.url)
        Route.objects.create(model=served, upstream=one, upstream_model="status:503", weight=99)
        other = Upstream.objects.create(name="other", base_url=fake.url)
        Route.objects.create(model=served, upstream=other, upstream_model="normal")
        assert server.chat(key, served.name).status == 200
        before = len(back.received)
        for _ in range(10):
            assert server.chat(key, served.name).status == 200
        assert len(back.received) <= before + 1  # It sent a Retry-After of 7 s.
        assert len(fake.received) >= 10
