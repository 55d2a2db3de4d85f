"""Operators test a model server, and choose which of its models are served."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.teams.models import Membership, Team, User
from tests.support.model_list_server import ModelListServer, running

pytestmark = pytest.mark.any_database
CREDENTIAL = "sk-the-servers-own-credential"


@pytest.fixture
def server() -> Iterator[ModelListServer]:
    with running() as server:
        server.lists("llama-70b", "qwen 3", "tiny")
        yield server


@pytest.fixture
def upstream(db: None, server: ModelListServer) -> Upstream:
    upstream = Upstream(name="gpu-7", base_url=f"{server.url}/v1")
    upstream.credential = CREDENTIAL
    upstream.save()
    return upstream


def address(upstream: Upstream, page: str) -> str:
    return f"/operators/servers/{upstream.pk}/{page}/"


def names() -> set[tuple[str, str | None]]:
    return set(ServedModel.objects.values_list("name", "team__slug"))


def test_ticked_models_are_served_to_all(operator: Client, upstream: Upstream) -> None:
    page = operator.get(address(upstream, "discover"))
    assert page.content.decode().count('name="ids"') == 3
    form = {"ids": ["llama-70b", "tiny"], "team": ""}
    done = operator.post(address(upstream, "discover"), form, follow=True)
    assert "Served now: public/llama-70b, public/tiny." in done.content.decode()
    assert names() == {("public/llama-70b", None), ("public/tiny", None)}
    again = operator.get(address(upstream, "discover")).content.decode()
    assert again.count("Not served") == 1


def test_ticked_models_are_served_to_one_team(
    operator: Client, upstream: Upstream, team: Team
) -> None:
    form = {"ids": ["tiny"], "team": team.pk}
    operator.post(address(upstream, "discover"), form)
    assert names() == {(f"{team.slug}/tiny", team.slug)}


def test_name_that_can_not_be_served_is_explained(operator: Client, upstream: Upstream) -> None:
    form = {"ids": ["qwen 3"], "team": ""}
    done = operator.post(address(upstream, "discover"), form, follow=True).content.decode()
    assert "Add it under another name." in done
    assert "manage.py" not in done
    assert not ServedModel.objects.exists()


@pytest.mark.parametrize("ids", [[], ["not-listed"]])
def test_only_what_is_listed_and_ticked_is_served(
    operator: Client, upstream: Upstream, ids: list[str]
) -> None:
    response = operator.post(address(upstream, "discover"), {"ids": ids, "team": ""})
    assert response.status_code == 422
    assert 'role="alert"' in response.content.decode()
    assert not ServedModel.objects.exists()


def test_search_narrows_a_long_list(
    operator: Client, upstream: Upstream, server: ModelListServer
) -> None:
    server.lists(*(f"model-{number}" for number in range(1500)))
    page = operator.get(address(upstream, "discover")).content.decode()
    assert page.count('name="ids"') == 500
    assert "The first 500 of 1500." in page
    found = operator.get(address(upstream, "discover"), {"q": "MODEL-149"}).content.decode()
    assert found.count('name="ids"') == 11
    nothing = operator.get(address(upstream, "discover"), {"q": "<gpt>"}).content.decode()
    assert "No model matches “&lt;gpt&gt;”." in nothing


def test_server_without_a_list_leads_to_adding_by_name(
    operator: Client, upstream: Upstream, server: ModelListServer, team: Team
) -> None:
    server.status = 404
    page = operator.get(address(upstream, "discover")).content.decode()
    assert "answered 404" in page
    path = address(upstream, "models/add")
    assert path in page
    operator.post(path, {"upstream_model": "my deployment", "name": "gpt", "team": team.pk})
    route = Route.objects.get()
    assert (route.upstream_model, route.model.name) == ("my deployment", f"{team.slug}/gpt")
    operator.post(path, {"upstream_model": "tiny", "name": "", "team": ""})
    assert ("public/tiny", None) in names()


def test_wrong_or_taken_name_is_an_error_in_the_form(
    operator: Client, upstream: Upstream, team: Team, other_team: Team
) -> None:
    ServedModel.objects.create(name="public/taken", team=other_team)
    for fields, message in (
        ({"upstream_model": "x", "name": "a b"}, "Use letters, digits"),
        ({"upstream_model": "x", "name": "taken"}, "already exists for another team"),
        ({"upstream_model": "", "name": "x"}, "This field is required."),
        ({"upstream_model": "x", "name": "y", "team": "4711"}, "Select a valid choice."),
    ):
        response = operator.post(address(upstream, "models/add"), fields)
        assert response.status_code == 422
        assert message in response.content.decode()
    assert not Route.objects.exists()


def test_route_is_removed(operator: Client, upstream: Upstream, model: ServedModel) -> None:
    kept = Route.objects.get()
    route = Route.objects.create(model=model, upstream=upstream, upstream_model="tiny")
    path = address(upstream, f"routes/{kept.pk}/delete")
    assert operator.post(path).status_code == 404  # It belongs to another server.
    page = operator.get(f"/operators/servers/{upstream.pk}/").content.decode()
    path = address(upstream, f"routes/{route.pk}/delete")
    assert path in page
    # Here a confirmation leads back.
    assert operator.get(path)["Location"] == f"/operators/servers/{upstream.pk}/"
    assert operator.post(path).status_code == 302
    assert [*Route.objects.all()] == [kept]


def run_test(operator: Client, upstream: Upstream) -> str:
    text = operator.post(address(upstream, "test")).content.decode()
    assert CREDENTIAL not in text
    return text


def test_working_server_passes_each_step(
    operator: Client, upstream: Upstream, server: ModelListServer
) -> None:
    text = run_test(operator, upstream)
    assert text.count(">OK<") == 4
    assert "3 models." in text
    assert server.posted == [
        (
            "/v1/chat/completions",
            {
                "model": "llama-70b",
                "max_tokens": 1,
                "messages": [{"role": "user", "content": "Hi"}],
            },
        )
    ]


def test_model_that_is_served_is_asked_for_the_token(
    operator: Client, upstream: Upstream, server: ModelListServer, model: ServedModel
) -> None:
    Route.objects.create(model=model, upstream=upstream, upstream_model="tiny")
    run_test(operator, upstream)
    assert server.posted[0][1]["model"] == "tiny"


def test_anthropics_server_is_asked_in_its_own_form(
    operator: Client, upstream: Upstream, server: ModelListServer
) -> None:
    Upstream.objects.update(credential_header="x-api-key")
    run_test(operator, upstream)
    assert server.posted[0][0] == "/v1/messages"
    assert server.headers["anthropic-version"]
    assert server.headers["x-api-key"] == CREDENTIAL


def test_words_of_the_answer_are_shown_and_no_json(
    operator: Client, upstream: Upstream, server: ModelListServer
) -> None:
    answers: list[tuple[int, Any, str]] = [
        (200, {"choices": [{"message": {"content": "Hello"}}]}, "llama-70b said: Hello"),
        (200, {"content": [{"type": "text", "text": "Hi <b>"}]}, "llama-70b said: Hi &lt;b&gt;"),
        (200, {"choices": [{"message": {"content": None}}]}, "llama-70b answered."),
        (200, [], "llama-70b answered."),
        (503, {"error": {"message": "Loading", "code": 503}}, "llama-70b answered 503: Loading"),
        (422, {"detail": [{"msg": "?"}]}, "llama-70b answered 422: no reason"),
    ]
    for status, body, said in answers:
        server.status, server.reply_to_post = 200, (status, json.dumps(body).encode())
        server.lists("llama-70b")
        assert f">{said}</span>" in run_test(operator, upstream)


def test_next_step_after_serving(
    operator: Client, olga: User, upstream: Upstream, team: Team, other_team: Team
) -> None:
    """How to call it from the operator's team, if that may call it; else what to say of it."""
    form = {"ids": ["tiny"], "team": ""}
    done = operator.post(address(upstream, "discover"), form, follow=True).content.decode()
    assert '<a href="/operators/models/?q=public%2Ftiny">Describe it</a>' in done
    Membership.objects.create(team=team, user=olga)
    added = address(upstream, "models/add")
    form = {"upstream_model": "a&b", "name": "public/ab", "team": ""}
    done = operator.post(added, form, follow=True).content.decode()
    how = f'<a href="/teams/{team.slug}/models/?model=public%2Fab#call">See how to call it</a>'
    assert how in done
    form = {"upstream_model": "tiny", "team": str(other_team.pk)}
    assert "Describe it" in operator.post(added, form, follow=True).content.decode()


def test_refused_credential_is_said_and_never_repeated(
    operator: Client, upstream: Upstream, server: ModelListServer, model: ServedModel
) -> None:
    """Attack: a server repeats our credential in its error."""
    Route.objects.create(model=model, upstream=upstream, upstream_model="tiny")
    server.status, server.reason = 401, f"No {CREDENTIAL}"
    server.body = f'{{"error": "Incorrect key: {CREDENTIAL}\\u001b[31m"}}\x1b'.encode()
    text = run_test(operator, upstream)
    assert "It refuses the credential." in text
    assert "answered 401" in text
    assert "Incorrect key: …" in text
    assert "\x1b" not in text
    Upstream.objects.update(encrypted_credential="")
    server.reason, server.body = None, b""
    assert "It wants a credential." in run_test(operator, upstream)


def test_server_that_is_not_there_stops_the_test(operator: Client, upstream: Upstream) -> None:
    Upstream.objects.update(base_url="http://127.0.0.1:9/v1", encrypted_credential="")
    text = run_test(operator, upstream)
    assert text.count(">Problem<") == 1
    assert "Connection refused" in text
    assert "Short answer" not in text


def test_lost_credential_key_is_said(
    operator: Client, upstream: Upstream, server: ModelListServer
) -> None:
    Upstream.objects.update(encrypted_credential="unreadable")
    assert "can&#x27;t be decrypted" in run_test(operator, upstream)
    page = operator.get(address(upstream, "discover")).content.decode()
    assert "can&#x27;t be decrypted" in page
    assert server.asked == []


def test_built_in_server_needs_no_test(operator: Client, upstream: Upstream) -> None:
    Upstream.objects.update(base_url=BUILT_IN_URL)
    assert "It is the built-in demo model." in run_test(operator, upstream)


def test_form_of_the_discovery_names_the_teams(
    operator: Client, upstream: Upstream, team: Team
) -> None:
    page = operator.get(address(upstream, "discover"))
    assert f'<option value="{team.pk}">Acme</option>' in page.content.decode()
