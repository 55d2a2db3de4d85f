"""The page with the list of calls: filters and pagination."""

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from keyportal.usage import call_log
from keyportal.usage.call_log import Cursor
from keyportal.usage.models import Call

CALLS = "/teams/u-8105f7322477/calls/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def call(team: Team) -> Callable[..., Call]:
    """One call, `ago` seconds before now."""
    now = timezone.now()

    def call(ago: float = 0, **fields: Any) -> Call:
        row = {
            "request_id": f"req-{ago}",
            "started_at": now - timedelta(seconds=ago),
            "team_slug": team.slug,
            "public_id": "AbCd1234",
            "owner_id": 7,
            "endpoint": "/v1/chat/completions",
            "model": "public/small",
            "status": 200,
            "duration_ms": 1500,
        }
        return Call.objects.create(**(row | fields))

    return call


def call_ids(response: Any) -> list[int]:
    return [row.call.pk for row in response.context["page"].rows]


def follow(client: Client, response: Any, name: str) -> Any:
    link = re.search(rf'href="([^"]+)"[^>]* id="{name}"', response.content.decode())
    assert link, f"no link {name}"
    return client.get(f"{CALLS}{link[1].replace('&amp;', '&')}", headers=HTMX)


@pytest.mark.any_database
def test_viewer_sees_a_row_for_each_call(
    sign_in: SignIn,
    vera: User,
    bob: User,
    other_team: Team,
    issue: Issue,
    call: Callable[..., Call],
) -> None:
    key, _ = issue(bob, "<b>nightly")
    call(
        public_id=key.public_id,
        status=502,
        prompt_tokens=1234,
        completion_tokens=56,
        is_estimated=True,
        first_byte_ms=87,
        address="192.0.2.7",
        user_agent="<i>curl",
    )
    call(team_slug=other_team.slug, model="secret")
    text = sign_in(vera).get(CALLS).content.decode()
    for expected in (
        *("&lt;b&gt;nightly", key.public_id, "public/small", "/v1/chat/completions", ">502<"),
        *("</span>1,234</span>", "</span>56</span>", "first byte 87 ms", "1.5 s", "192.0.2.7"),
        *("&lt;i&gt;curl", 'title="Estimated">~'),
    ):
        assert expected in text
    assert "secret" not in text


@pytest.mark.any_database
def test_parts_of_the_tokens_are_shown_where_there_are_any(
    sign_in: SignIn, vera: User, call: Callable[..., Call]
) -> None:
    call(ago=1)
    client = sign_in(vera)
    assert "<small></small>" not in client.get(CALLS).content.decode()
    call(
        cached_tokens=1200,
        cache_write_tokens=70,
        cache_write_1h_tokens=50,
        audio_prompt_tokens=8,
        reasoning_tokens=20,
        images=1,
        service_tier="flex",
    )
    text = client.get(CALLS).content.decode()
    for expected in (
        "1,200 cached, 20 written to the cache, 50 written to the cache for 1 h, 8 audio<",
        ">20 reasoning, 1 image<",
        ">/v1/chat/completions, flex<",
    ):
        assert text.count(expected) == 1


@pytest.mark.any_database
def test_page_and_fragment_have_the_same_address(sign_in: SignIn, vera: User) -> None:
    client = sign_in(vera)
    page, fragment = client.get(CALLS), client.get(CALLS, headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<div id="calls">')
    assert "No calls." in page.content.decode()
    assert "HX-Request" in page["Vary"]


def test_pages_have_links_both_ways(
    sign_in: SignIn, vera: User, call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_log, "PAGE_SIZE", 10)
    # Three calls at each time, so that a page ends between calls of the same time.
    made = [call(ago=number // 3).pk for number in range(24)]
    expected = [row.pk for row in Call.objects.order_by("-started_at", "-pk")]
    assert sorted(expected) == sorted(made)
    client = sign_in(vera)
    first = client.get(CALLS)
    second = follow(client, first, "older")
    third = follow(client, second, "older")
    assert call_ids(first) + call_ids(second) + call_ids(third) == expected
    assert 'id="older"' not in third.content.decode()
    assert 'id="newer"' not in first.content.decode()
    again = follow(client, third, "newer")
    assert call_ids(again) == call_ids(second)
    assert call_ids(follow(client, again, "newer")) == call_ids(first)


def test_pages_have_50_calls_and_filters_combine_and_stay_while_paging(
    sign_in: SignIn, vera: User, call: Callable[..., Call]
) -> None:
    for number in range(52):
        call(ago=number, status=503, model="50%/x", public_id="11111111")
    for fields in ({"status": 200}, {"model": "50"}, {"public_id": "22222222"}, {"status": 499}):
        call(**{"status": 503, "model": "50%/x", "public_id": "11111111"} | fields)
    client = sign_in(vera)
    query = {"key": "11111111", "model": "50%/x", "status": "5"}
    first = client.get(CALLS, query)
    assert len(call_ids(first)) == 50
    assert len(call_ids(follow(client, first, "older"))) == 2
    assert len(call_ids(client.get(CALLS, {"status": "4"}))) == 1


@pytest.mark.any_database
def test_invalid_filters_are_ignored(
    sign_in: SignIn, vera: User, call: Callable[..., Call]
) -> None:
    call()
    client = sign_in(vera)
    queries = "at=nonsense at=1. at=9999999999999999.1 status=9 key=%00 model=%00"
    for query in queries.split():
        response = client.get(f"{CALLS}?{query}", headers=HTMX)
        assert response.status_code == 200, query
        assert len(call_ids(response)) == 1, query


def test_a_cursor_round_trips() -> None:
    for place in (Cursor(timezone.now(), 7), Cursor(timezone.now(), 7, is_newer=True)):
        assert Cursor.parse(str(place)) == place


def test_a_long_search_stops_and_continues_on_the_next_page(
    sign_in: SignIn, vera: User, call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_log, "MAX_CALLS_SEARCHED", 10)
    for number in range(30):
        call(ago=number)
    wanted = [call(ago=at, status=500).pk for at in (5.5, 15.5)]
    client = sign_in(vera)
    first = client.get(CALLS, {"status": "5"})
    assert call_ids(first) == wanted[:1]
    assert "Searched back to" in first.content.decode()
    second = follow(client, first, "older")
    third = follow(client, second, "older")
    assert call_ids(second) + call_ids(third) == wanted[1:]


def test_a_search_that_stops_within_a_moment_finds_each_call_once_in_both_directions(
    sign_in: SignIn, vera: User, call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_log, "MAX_CALLS_SEARCHED", 10)
    for number in range(25):
        call(ago=number // 3, status=500)
    newest_first = [row.pk for row in Call.objects.order_by("-started_at", "-pk")]
    client = sign_in(vera)
    first = client.get(CALLS, {"status": "5"})
    second = follow(client, first, "older")
    third = follow(client, second, "older")
    assert call_ids(first) + call_ids(second) + call_ids(third) == newest_first
    second = follow(client, third, "newer")
    first = follow(client, second, "newer")
    assert call_ids(first) + call_ids(second) + call_ids(third) == newest_first


@pytest.mark.any_database
def test_deleted_keys_keep_their_name(
    sign_in: SignIn, bob: User, issue: Issue, call: Callable[..., Call]
) -> None:
    key, _ = issue(bob, "old")
    call(public_id=key.public_id)
    key.revoke(actor=bob)
    text = sign_in(bob).get(CALLS).content.decode()
    assert '<span class="name">old</span> <span class="badge">Deleted</span>' in text


@pytest.mark.any_database
@pytest.mark.parametrize("rows", [3, 30])
def test_queries_stay_the_same_for_any_number_of_calls(
    sign_in: SignIn,
    vera: User,
    call: Callable[..., Call],
    django_assert_num_queries: DjangoAssertNumQueries,
    rows: int,
) -> None:
    for number in range(rows):
        call(ago=number, public_id=f"{number:08}")
    client = sign_in(vera)
    client.get(CALLS)
    with django_assert_num_queries(8):
        client.get(CALLS, headers=HTMX)


def test_cursor_bounds() -> None:
    assert Cursor.parse("0.0") == Cursor(datetime.fromisoformat("1970-01-01T00:00+00:00"), 0)
    assert Cursor.parse("1" * 17 + ".1") is None
