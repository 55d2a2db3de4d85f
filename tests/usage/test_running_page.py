"""The page of running calls, and how an admin ends one."""

import html
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.models import ApiKey
from keyportal.teams.models import Team, User
from keyportal.usage.models import EndRequest, RunningCalls

pytestmark = pytest.mark.any_database

RUNNING = "/teams/u-8105f7322477/running/"
HTMX = {"HX-Request": "true"}
SignIn = Callable[[User], Client]
Issue = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def run(team: Team) -> Callable[..., str]:
    """A call that a worker wrote down `ago` seconds before now; returns its id."""

    def run(worker: str = "one", ago: float = 0, slug: str = team.slug, **fields: Any) -> str:
        call = {
            "id": f"call-{worker}",
            "public_id": "AbCd1234",
            "model": "public/small",
            "endpoint": "/v1/chat/completions",
            "seconds": 42.5,
            "tokens": 1234,
            "address": "192.0.2.7",
        } | fields
        RunningCalls.objects.create(
            worker=worker,
            team_slug=slug,
            calls=[call],
            written_at=timezone.now() - timedelta(seconds=ago),
        )
        return str(call["id"])

    return run


def end(call_id: str) -> str:
    return f"{RUNNING}{call_id}/end/"


def test_admin_sees_the_calls_of_all_workers(
    sign_in: SignIn, ada: User, bob: User, other_team: Team, issue: Issue, run: Callable[..., str]
) -> None:
    key, _ = issue(bob, "<b>nightly")
    run("one", public_id=key.public_id)
    run("two", seconds=99.5, model="public/older")
    run("gone", ago=6, model="stale")
    run("foreign", slug=other_team.slug, model="secret")
    response = sign_in(ada).get(RUNNING)
    text = response.content.decode()
    for expected in ("&lt;b&gt;nightly", "1,234", "192.0.2.7", "2 running", end("call-one")):
        assert expected in text
    assert [call.model for call in response.context["calls"]] == ["public/older", "public/small"]
    assert [call.seconds for call in response.context["calls"]] == [99, 42]
    assert "stale" not in text
    assert "secret" not in text


def test_page_and_fragment_have_the_same_address(sign_in: SignIn, ada: User) -> None:
    client = sign_in(ada)
    page, fragment = client.get(RUNNING), client.get(RUNNING, headers=HTMX)
    assert page.content.lstrip().startswith(b"<!doctype html>")
    assert fragment.content.lstrip().startswith(b'<section id="running"')
    assert "No running calls." in page.content.decode()


def test_admin_ends_a_call(sign_in: SignIn, ada: User, team: Team, run: Callable[..., str]) -> None:
    call_id = run()
    client = sign_in(ada)
    for _ in range(2):  # The second is a double-click.
        response = client.post(end(call_id), headers=HTMX)
        assert response.status_code == 204
        assert response["HX-Trigger"] == "running-changed"
    wish = EndRequest.objects.get()
    assert (wish.call_id, wish.team_slug) == (call_id, team.slug)
    event = AuditEvent.objects.for_team(team).get(action=Action.CALL_ENDED)
    assert event.target == "AbCd1234 (AbCd1234): public/small"
    assert (event.actor, event.address) == ("ada", "127.0.0.1")
    text = client.get(RUNNING).content.decode()
    assert ">Ending</span>" in text
    assert end(call_id) not in text


@pytest.mark.parametrize("name", ["a/b", "../c", "ü ?#%&", "x" * 128])
def test_a_call_with_any_id_can_be_ended(
    sign_in: SignIn, ada: User, other_team: Team, run: Callable[..., str], name: str
) -> None:
    """Even when another team has a call with the same id, and a request to end it."""
    EndRequest.objects.create(call_id=name, team_slug=other_team.slug)
    run(id=name)
    client = sign_in(ada)
    form = re.search(
        r'<form method="post" action="([^"]+/end/)"', client.get(RUNNING).content.decode()
    )
    assert form
    assert client.post(html.unescape(form[1]), headers=HTMX).status_code == 204
    assert EndRequest.objects.filter(call_id=name).count() == 2


def test_without_javascript_it_redirects_to_the_list(
    sign_in: SignIn, ada: User, run: Callable[..., str]
) -> None:
    response = sign_in(ada).post(end(run()), follow=True)
    assert response.redirect_chain == [(RUNNING, 302)]
    assert "The call ends within about a second." in response.content.decode()


def test_a_call_of_another_team_and_an_unknown_one_are_404(
    sign_in: SignIn, ada: User, other_team: Team, run: Callable[..., str]
) -> None:
    foreign, stale = run("foreign", slug=other_team.slug), run("stale", ago=6)
    client = sign_in(ada)
    for call_id in (foreign, stale, "none"):
        assert client.post(end(call_id)).status_code == 404
    assert not EndRequest.objects.exists()
    assert not AuditEvent.objects.filter(action=Action.CALL_ENDED).exists()


def test_member_is_refused_with_the_reason(
    sign_in: SignIn, bob: User, run: Callable[..., str]
) -> None:
    client = sign_in(bob)
    for response in (client.get(RUNNING), client.post(end(run()))):
        assert response.status_code == 403
        assert "This needs the role Admin" in response.content.decode()
    assert not EndRequest.objects.exists()
    assert RUNNING not in client.get("/teams/u-8105f7322477/calls/").content.decode()


def test_outsider_gets_404(sign_in: SignIn, charlie: User, run: Callable[..., str]) -> None:
    client = sign_in(charlie)
    assert client.get(RUNNING).status_code == 404
    assert client.post(end(run())).status_code == 404


@pytest.mark.parametrize("workers", [1, 20])
def test_queries_stay_the_same_for_any_number_of_calls(
    sign_in: SignIn,
    ada: User,
    run: Callable[..., str],
    django_assert_num_queries: DjangoAssertNumQueries,
    workers: int,
) -> None:
    for number in range(workers):
        run(str(number), public_id=f"{number:08}")
    client = sign_in(ada)
    client.get(RUNNING)
    with django_assert_num_queries(7):
        client.get(RUNNING, headers=HTMX)
