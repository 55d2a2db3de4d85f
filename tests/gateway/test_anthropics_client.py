"""Anthropic's official client: buffered, streamed, its lists, and its error classes.

One test for all, because each process that imports the client needs more than a second for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from keyportal.catalog.models import ServedModel
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.models import Team, User
from tests.gateway.test_surface import HELLO, last_call
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.lazy import LazyModule
from tests.support.model_responses import COMPLETION, PROMPT, TEXT, WORDS
from tests.support.server import Server

if TYPE_CHECKING:
    import anthropic
else:
    anthropic = LazyModule("anthropic")

pytestmark = [pytest.mark.gateway, pytest.mark.any_database]
Issue = Callable[..., tuple[ApiKey, str]]
Serve = Callable[..., str]


def messages(name: str) -> dict[str, Any]:
    return {"model": name, "max_tokens": 99, "messages": [{"role": "user", "content": HELLO}]}


def test_anthropics_client(
    live: Server,
    alice: User,
    other_team: Team,
    issue: Issue,
    model: ServedModel,
    serve_model: Serve,
    fake: FakeUpstream,
) -> None:
    """Configured like its users do: without `/v1`, the key in `x-api-key`."""
    key, name = issue(alice)[1], serve_model("normal")
    with anthropic.Anthropic(base_url=live.url, api_key=key, max_retries=0) as claude:
        gets_messages(claude, name, fake)
        gets_streamed_messages(claude, name)
        counts_tokens(claude, name, fake)
        gets_its_exceptions(claude, serve_model, issue(alice, "x", permissions=NARROW)[1])
        learns_that_a_stream_broke(claude, serve_model("break"))
        is_refused_by_the_built_in_model(claude, model.name)
        lists_models(claude, name, other_team)
    for base in ("/", "/v1", "/v1/", "//"):
        may_have_another_base_url(live.url + base, key, name, fake)
    is_told_the_right_base_url(live, key)
    may_send_the_key_as_a_bearer_token(live, key, name)


NARROW = Permissions(("public/other",))


def gets_messages(claude: anthropic.Anthropic, name: str, fake: FakeUpstream) -> None:
    answer: Any = claude.messages.create(**messages(name))
    assert answer.content[0].text == TEXT
    assert answer.usage.output_tokens == COMPLETION
    assert answer._request_id.startswith("req_")
    assert last_call(fake) == ("/v1/messages", "normal")
    version = fake.received[-1].headers["anthropic-version"]
    assert version == claude.default_headers["anthropic-version"]


def gets_streamed_messages(claude: anthropic.Anthropic, name: str) -> None:
    with claude.messages.stream(**messages(name)) as stream:
        assert list(stream.text_stream) == WORDS
        final = stream.get_final_message()
    assert isinstance(final.content[0], anthropic.types.TextBlock)
    assert (final.content[0].text, final.usage.output_tokens) == (TEXT, COMPLETION)


def counts_tokens(claude: anthropic.Anthropic, name: str, fake: FakeUpstream) -> None:
    wanted = messages(name)
    wanted.pop("max_tokens")
    assert claude.messages.count_tokens(**wanted).input_tokens == PROMPT
    assert last_call(fake) == ("/v1/messages/count_tokens", "normal")


def gets_its_exceptions(claude: anthropic.Anthropic, serve_model: Serve, narrow: str) -> None:
    bad = claude.with_options(api_key="sk-kp-nonsense")
    with pytest.raises(anthropic.AuthenticationError) as refused:
        bad.messages.create(**messages("any"))
    assert refused.value.type == "authentication_error"
    with pytest.raises(anthropic.NotFoundError) as unknown:
        claude.messages.create(**messages("u-0000000000cc/theirs"))
    assert unknown.value.type == "not_found_error"
    with pytest.raises(anthropic.PermissionDeniedError) as denied:
        claude.with_options(api_key=narrow).messages.create(**messages(serve_model("echo")))
    assert denied.value.type == "permission_error"
    with pytest.raises(anthropic.InternalServerError) as failed:
        claude.messages.create(**messages(serve_model("hang_up")))
    assert failed.value.type == "api_error"
    assert failed.value.request_id == failed.value.body["request_id"]  # type: ignore[index]


def learns_that_a_stream_broke(claude: anthropic.Anthropic, name: str) -> None:
    stream = claude.messages.create(**messages(name), stream=True)
    with pytest.raises(anthropic.APIStatusError, match="broke off") as caught:
        list(stream)
    assert caught.value.body["error"]["type"] == "api_error"  # type: ignore[index]


def is_refused_by_the_built_in_model(claude: anthropic.Anthropic, name: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="doesn't serve /v1/messages") as refused:
        claude.messages.create(**messages(name))
    assert refused.value.type == "invalid_request_error"


def lists_models(claude: anthropic.Anthropic, name: str, other_team: Team) -> None:
    names = set(ServedModel.objects.values_list("name", flat=True))
    ServedModel.objects.create(name=f"{other_team.slug}/theirs", team=other_team)
    page = claude.models.list(limit=2)
    assert (len(page.data), page.has_more) == (2, True)
    assert (page.first_id, page.last_id) == (page.data[0].id, page.data[1].id)
    listed = list(claude.models.list(limit=2))  # All pages, by `after_id`.
    assert {model.id for model in listed} == names
    assert len(listed) == len(names) == 5
    assert page.data[0].type == "model"
    assert page.data[0].display_name == page.data[0].id
    served = ServedModel.objects.get(name=name)
    found = claude.models.retrieve(name)
    assert found.id == name
    assert found.created_at == served.created_at.replace(microsecond=0)
    back = claude.models.list(limit=2, before_id=listed[4].id)
    assert [model.id for model in back.data] == [listed[2].id, listed[3].id]
    assert back.has_more
    with pytest.raises(anthropic.NotFoundError, match="GET /v1/models") as unknown:
        claude.models.retrieve(f"{other_team.slug}/theirs")
    assert unknown.value.type == "not_found_error"
    for wrong in ({"limit": 1001}, {"after_id": f"{other_team.slug}/theirs"}):
        with pytest.raises(anthropic.BadRequestError) as bad:
            claude.models.list(**wrong)
        assert bad.value.type == "invalid_request_error"
    bad_key = claude.with_options(api_key="sk-kp-nonsense")
    with pytest.raises(anthropic.AuthenticationError) as refused:
        bad_key.models.list()
    assert refused.value.type == "authentication_error"


def may_have_another_base_url(url: str, key: str, name: str, fake: FakeUpstream) -> None:
    with anthropic.Anthropic(base_url=url, api_key=key, max_retries=0) as claude:
        assert claude.messages.create(**messages(name)).id == "msg_1"
        assert last_call(fake) == ("/v1/messages", "normal")
        counted = claude.messages.count_tokens(model=name, messages=[])
        assert counted.input_tokens == PROMPT
        bad = claude.with_options(api_key="{API_KEY}")
        with pytest.raises(anthropic.AuthenticationError, match="placeholder") as refused:
            bad.messages.create(**messages(name))
        assert refused.value.response.headers["x-should-retry"] == "false"


def is_told_the_right_base_url(live: Server, key: str) -> None:
    with (
        anthropic.Anthropic(base_url=f"{live.url}/llm/api", api_key=key, max_retries=0) as claude,
        pytest.raises(anthropic.NotFoundError, match=f"base URL to {live.url}/v1") as unknown,
    ):
        claude.messages.create(**messages("any"))
    assert unknown.value.type == "not_found_error"


def may_send_the_key_as_a_bearer_token(live: Server, key: str, name: str) -> None:
    """Configured with an auth token in place of an API key."""
    with anthropic.Anthropic(base_url=live.url, auth_token=key, api_key=None) as claude:
        assert claude.messages.create(**messages(name)).id == "msg_1"
