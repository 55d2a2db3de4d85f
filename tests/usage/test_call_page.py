"""The page of one call: what its caller got, and which model servers were asked."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from django.test import Client

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.keys.models import ApiKey
from keyportal.keys.rules.permissions import Permissions
from keyportal.teams.models import Team, User
from keyportal.usage.models import Call
from tests.support.fake_upstream import Upstream as FakeUpstream
from tests.support.server import Server, free_port, wait_until

CALLS = "/teams/u-8105f7322477/calls/"
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def call(team: Team) -> Callable[..., Call]:
    def call(**fields: Any) -> Call:
        row = {
            "request_id": "req_0123",
            "started_at": datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC),
            "team_slug": team.slug,
            "public_id": "AbCd1234",
            "owner_id": 7,
            "endpoint": "/chat/completions",
            "model": "public/small",
            "status": 200,
            "duration_ms": 62_000,
        }
        return Call.objects.create(**(row | fields))

    return call


def page(client: Client, call: Call) -> str:
    answer = client.get(f"{CALLS}{call.pk}/")
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


@pytest.mark.any_database
def test_viewer_sees_what_the_caller_got_and_who_was_asked(
    sign_in: SignIn, vera: User, bob: User, issue: Issue, call: Callable[..., Call]
) -> None:
    key, _ = issue(bob, "<b>nightly")
    attempts = [["gpu-1", "llama", "503", 120], ["<i>gpu-2", "llama", "UpstreamTimedOut", 60_000]]
    text = page(
        sign_in(vera),
        call(
            public_id=key.public_id,
            status=504,
            error_code="upstream_timeout",
            error_message="The model server took too long to <answer>.",
            attempts=json.dumps(attempts),
            first_byte_ms=87,
            prompt_tokens=1234,
        ),
    )
    for expected in (
        *("req_0123", ">504<", "upstream_timeout", "took too long to &lt;answer&gt;."),
        *("&lt;b&gt;nightly", f"/keys/{key.public_id}/", "after 87 ms", "1,234"),
        *("gpu-1", "Answered 503", "120 ms", "&lt;i&gt;gpu-2", "Took too long to answer"),
        *("2026-03-04 05:06:07", "2026-03-04 05:07:09"),
    ):
        assert expected in text, expected


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": 499}, "The caller closed the connection."),
        ({"status": 400, "attempts": '[["a","m","400",1]]'}, "The model server&#x27;s own answer"),
        ({"status": 502, "attempts": '[["a","m","200",1]]'}, "ended its answer with an error"),
        ({"status": 500}, ""),
    ],
)
def test_reasons_that_are_no_error_of_ours(
    sign_in: SignIn, vera: User, call: Callable[..., Call], fields: dict[str, Any], reason: str
) -> None:
    text = page(sign_in(vera), call(**fields))
    assert reason in text
    assert ("<dt>Reason</dt>" in text) == bool(reason)


@pytest.mark.any_database
def test_call_of_another_team_is_not_found(
    sign_in: SignIn, alice: User, other_team: Team, call: Callable[..., Call]
) -> None:
    client = sign_in(alice)
    for number in (call(team_slug=other_team.slug).pk, 10**18, 10**30):
        assert client.get(f"{CALLS}{number}/").status_code == 404


def test_a_call_is_found_by_its_request_id(
    sign_in: SignIn, vera: User, other_team: Team, call: Callable[..., Call]
) -> None:
    wanted = [call(request_id="from-client"), call(request_id="from-client", status=404)]
    call()
    call(request_id="from-client", team_slug=other_team.slug)
    client = sign_in(vera)
    answer = client.get(CALLS, {"request": "from-client"})
    assert {row.call for row in answer.context["page"].rows} == {*wanted}
    assert f'href="{CALLS}{wanted[0].pk}/"' in answer.content.decode()
    assert 'value="from-client"' in answer.content.decode()
    one = client.get(CALLS, {"request": "from-client", "status": "4"})
    assert [row.call for row in one.context["page"].rows] == [wanted[1]]
    none = client.get(CALLS, {"request": "<b>"})
    assert none.context["page"].rows == []
    assert "Show all calls" in none.content.decode()


@pytest.mark.gateway
def test_calls_of_a_running_server(
    live: Server,
    sign_in: SignIn,
    alice: User,
    issue: Issue,
    team: Team,
    fake: FakeUpstream,
    serve_model: Callable[..., str],
) -> None:
    """The reason of a refusal, and the routes of a call in turn; nothing that was said."""
    allowed = serve_model("normal", "allowed")
    served = ServedModel.objects.create(name=f"{team.slug}/two-routes", team=team)
    dead = Upstream.objects.create(
        name="dead-server", base_url=f"http://127.0.0.1:{free_port()}/v1"
    )
    works = Upstream.objects.get(name="fake-allowed")
    Route.objects.create(model=served, upstream=dead, upstream_model="x", weight=1000)
    Route.objects.create(model=served, upstream=works, upstream_model="normal")
    narrow_key, narrow = issue(alice, "narrow", permissions=Permissions((allowed,)))
    wide_key, wide = issue(alice, "wide")
    refused = live.chat(narrow, served.name)
    assert (refused.status, refused.code) == (403, "model_not_allowed")
    assert live.chat(wide, served.name).status == 200
    bad = live.request(
        "POST", "/v1/chat/completions", key=wide, body=b'{"model": "a", "secret words'
    )
    assert bad.status == 400
    # Calls of earlier tests may still be written.
    calls = Call.objects.filter(public_id__in=[narrow_key.public_id, wide_key.public_id])
    wait_until(lambda: calls.count() == 3)
    row = calls.get(status=403)
    assert row.error_message == refused.json()["error"]["message"]
    assert (row.model, served.name in row.error_message) == ("", True)
    client = sign_in(alice)
    assert served.name in page(client, row)
    text = page(client, calls.get(status=200))
    assert "fake-allowed" in text
    tried = json.loads(calls.get(status=200).attempts)
    assert [name for name, *_ in tried] == ["dead-server", "fake-allowed"]
    assert [outcome for *_, outcome, _ in tried] == ["UpstreamFailed", "200"]
    assert "secret words" not in page(client, calls.get(status=400))
    assert str(dead.base_url) not in text
