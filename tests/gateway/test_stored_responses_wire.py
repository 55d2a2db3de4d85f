"""Requests for stored answers: for their team only, at the model server that made them."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.gateway.errors import BadRequest, MethodNotAllowed
from keyportal.gateway.response_requests import ResponseRequest
from keyportal.keys.keystring import public_id_of
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Endpoints, Permissions
from keyportal.teams.models import Team, User
from keyportal.usage.models import Call
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.lazy import LazyModule
from tests.support.server import Reply, Server, wait_until

if TYPE_CHECKING:
    import openai
else:
    openai = LazyModule("openai")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]


@pytest.mark.parametrize(
    ("method", "path", "query", "upstream"),
    [
        ("GET", "/v1/responses/resp_1", b"", "GET /responses/resp_1"),
        ("HEAD", "/v1/responses/resp_1", b"", "GET /responses/resp_1"),
        ("DELETE", "/v1/responses/resp-1_A==", b"", "DELETE /responses/resp-1_A=="),
        ("POST", "/v1/responses/resp_1/cancel", b"", "POST /responses/resp_1/cancel"),
        (
            "GET",
            "/v1/responses/resp_1/input_items",
            b"limit=2&after=msg_1&include[]=a.b&stream=false&api-version=1&x=%0d%0aHost:y",
            "GET /responses/resp_1/input_items?limit=2&after=msg_1&include%5B%5D=a.b",
        ),
        (
            "GET",
            "/v1/responses/resp_1",
            b"include=%0d%0aX:%20y%20HTTP/1.1",
            "GET /responses/resp_1?include=%0D%0AX%3A+y+HTTP%2F1.1",
        ),
    ],
)
def test_request_for_an_answer(method: str, path: str, query: bytes, upstream: str) -> None:
    """Attack: a parameter adds a header, or chooses another version at Azure."""
    request = ResponseRequest.read(method, path, query)
    assert request is not None
    relayed = request.to_relay([], "req_1")
    rest = f"?{relayed.query}" if relayed.query else ""
    assert f"{relayed.method} {relayed.endpoint.path}{rest}" == upstream


@pytest.mark.parametrize(
    "path",
    [
        "/v1/responses/",
        "/v1/responses/../models",
        "/v1/responses/..",
        "/v1/responses/resp_1/../../files",
        "/v1/responses/resp_1/",
        "/v1/responses/resp_1/cancel/",
        "/v1/responses/resp_1/items",
        "/v1/responses//resp_1",
        "/v1/responses/resp 1",
        "/v1/responses/resp_1\r\nHost: x",
        "/v1/responses/resp_1\n",
        "/v1/responses/resp%2f1",
        "/v1/responses/résp",
        "/v1/responses/a=b",
        "/v1/responses/" + "a" * 513,
        "/x/v1/responses/resp_1",
    ],
)
def test_other_paths_are_none(path: str) -> None:
    """Attack: another path of the model server is reached."""
    assert ResponseRequest.read("GET", path, b"") is None


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v1/responses/resp_1", "GET, HEAD, DELETE"),
        ("GET", "/v1/responses/resp_1/cancel", "POST"),
        ("DELETE", "/v1/responses/resp_1/input_items", "GET, HEAD"),
        ("OPTIONS", "/v1/responses/resp_1", "GET, HEAD, DELETE"),
    ],
)
def test_other_methods_are_refused(method: str, path: str, allowed: str) -> None:
    with pytest.raises(MethodNotAllowed) as refused:
        ResponseRequest.read(method, path, b"")
    assert refused.value.allowed == allowed


def test_stream_of_a_stored_answer_is_refused() -> None:
    """A client that waits for events would read none in a JSON answer, without an error."""
    with pytest.raises(BadRequest, match="Leave out `stream`"):
        ResponseRequest.read("GET", "/v1/responses/resp_1", b"stream=true&starting_after=3")


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


@pytest.fixture
def theirs(charlie: User, other_team: Team, issue: Issue) -> str:
    return issue(charlie, team=other_team)[1]


def create(live: Server, key: str, model: str, **more: object) -> Reply:
    return live.request("POST", "/v1/responses", key=key, body={"model": model, **more})


def get(live: Server, key: str, rest: str = "resp_one", method: str = "GET") -> Reply:
    return live.request(method, f"/v1/responses/{rest}", key=key)


def asked(reply: Reply) -> object:
    assert reply.status == 200, reply.body
    return reply.json()["asked"]


@pytest.fixture
def public(serve_model: Serve) -> str:
    """A model of all teams, whose answers have the id `resp_one`."""
    model = ServedModel.objects.get(name=serve_model("respond:resp_one", "one"))
    model.team = None
    model.save()
    return model.name


@pytest.mark.parametrize("stream", [False, True])
def test_stored_answer_is_for_its_team_only(
    live: Server, key: str, theirs: str, public: str, stream: bool
) -> None:
    assert get(live, key).code == "response_not_found"
    forged = {"id": "resp_theirs", "response": {"id": "resp_theirs"}}
    assert create(live, key, public, stream=stream, metadata=forged).status == 200
    for method, rest in (
        ("GET", "resp_one"),
        ("GET", "resp_one/input_items?limit=2"),
        ("POST", "resp_one/cancel"),
        ("DELETE", "resp_one"),
    ):
        assert asked(get(live, key, rest, method)) == f"{method} /v1/responses/{rest}"
        refused = get(live, theirs, rest, method)
        assert (refused.status, refused.code) == (404, "response_not_found")
    assert get(live, key, "resp_theirs").status == 404
    went_on = create(live, theirs, public, previous_response_id="resp_one")
    assert (went_on.status, went_on.code) == (404, "previous_response_not_found")
    assert get(live, theirs).status == 404, "a refused call does not make it theirs"


def test_official_client_reads_deletes_and_goes_on(
    live: Server, key: str, public: str, fake: FakeUpstream
) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0) as ai:
        first = ai.responses.create(model=public, input="Hello")
        ai.responses.retrieve(first.id)
        ai.responses.input_items.list(first.id)
        ai.responses.create(model=public, input="And?", previous_response_id=first.id)
        ai.responses.cancel(first.id)
        ai.responses.delete(first.id)
        with pytest.raises(openai.NotFoundError):
            ai.responses.retrieve("resp_none")
    assert json.loads(fake.received[3].body)["previous_response_id"] == "resp_one"
    assert [received.path.removeprefix("/v1/responses") for received in fake.received] == [
        "", "/resp_one", "/resp_one/input_items", "", "/resp_one/cancel", "/resp_one"
    ]  # fmt: skip
    read = fake.received[1].headers
    assert "Content-Type" not in read
    assert "Content-Length" not in read


def test_reading_an_answer_is_a_call_without_tokens(live: Server, key: str, public: str) -> None:
    assert create(live, key, public).status == 200
    assert get(live, key).status == get(live, key, method="DELETE").status == 200
    calls = Call.objects.filter(public_id=public_id_of(key.encode()))
    wait_until(lambda: calls.count() == 3)
    read = calls.filter(endpoint="/responses/{id}").values_list(
        "model", "status", "prompt_tokens", "completion_tokens", "is_estimated"
    )
    assert list(read) == [(public, 200, 0, 0, False)] * 2


def test_head_has_no_body_and_the_servers_refusal_passes(
    live: Server, key: str, serve_model: Serve
) -> None:
    assert create(live, key, serve_model("respond:resp_lost")).status == 200
    reply = get(live, key, "resp_lost", "HEAD")
    assert (reply.status, reply.body) == (404, b"")
    assert get(live, key, "resp_lost").json()["asked"] == "GET /v1/responses/resp_lost"


def test_nothing_is_stored_if_the_caller_forbids_it(live: Server, key: str, public: str) -> None:
    assert create(live, key, public, store=False).status == 200
    assert get(live, key).status == 404


def test_key_must_be_allowed_to_call_the_model(
    live: Server, alice: User, issue: Issue, key: str, public: str, serve_model: Serve
) -> None:
    """Attack: a key for few models reads what another key of the team has said to another model."""
    assert create(live, key, public).status == 200
    other = serve_model("respond:resp_two", "two")
    narrow = issue(alice, "narrow", permissions=Permissions((other,)))[1]
    assert get(live, narrow).code == "model_not_allowed"
    went_on = create(live, narrow, other, previous_response_id="resp_one")
    assert went_on.code == "model_not_allowed"
    for kind in (Endpoints.EMBEDDINGS, Endpoints.READ):
        permissions = Permissions(endpoints=kind)
        refused = get(live, issue(alice, kind.value, permissions=permissions)[1])
        assert refused.code == "endpoint_not_allowed"
    chat = issue(alice, "chat", permissions=Permissions(endpoints=Endpoints.CHAT))[1]
    assert get(live, chat).status == 200


def test_requests_go_to_the_server_that_made_the_answer(
    live: Server, key: str, public: str, fake: FakeUpstream
) -> None:
    """The model has two servers. One of them no longer works."""
    assert create(live, key, public).status == 200
    route = Route.objects.get(model__name=public)
    dead = Upstream.objects.create(name="dead", base_url="http://127.0.0.1:9/v1")
    Route.objects.create(model=route.model, upstream=dead, upstream_model="x", weight=30_000)
    fake.received.clear()
    for _ in range(5):
        assert get(live, key).status == 200
        assert create(live, key, public, previous_response_id="resp_one").status == 200
    assert len(fake.received) == 10
    route.delete()
    assert get(live, key).code == "response_not_found"
    went_on = create(live, key, public, previous_response_id="resp_one")
    assert went_on.code == "previous_response_not_found"


def test_odd_ids_reach_no_server(live: Server, key: str, public: str, fake: FakeUpstream) -> None:
    assert create(live, key, public).status == 200
    fake.received.clear()
    odd = (
        "..%2fmodels",
        "%2e%2e/files",
        "resp_one%2f..%2f..%2ffiles",
        "resp_one%0d%0aX:y",
        "a%00b",
    )
    for rest in odd:
        for method in ("GET", "DELETE", "POST"):
            assert get(live, key, rest, method).status == 404
    assert fake.received == []
