"""add_upstream and add_model."""

import pytest
from django.core.management import CommandError

from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.teams.models import Team
from tests.support.commands import run
from tests.support.model_list_server import ModelListServer

pytestmark = [pytest.mark.django_db, pytest.mark.any_database]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001/v1"),
        ("http://127.0.0.1:8001/", "http://127.0.0.1:8001/v1"),
        ("http://127.0.0.1:8001/v1", "http://127.0.0.1:8001/v1"),
        ("http://127.0.0.1:8001/v1/", "http://127.0.0.1:8001/v1"),
        ("https://models.example.com/api/openai/", "https://models.example.com/api/openai"),
        ("loopback:", "loopback:"),
    ],
)
def test_the_url_is_what_an_openai_client_takes(given: str, stored: str) -> None:
    run("add_upstream", "vllm", given)
    assert Upstream.objects.get().base_url == stored


def test_options_that_are_not_given_keep_what_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    def stored() -> tuple[str, str, bool]:
        upstream = Upstream.objects.get()
        return upstream.credential_header, upstream.headers, upstream.takes_stream_options

    url = "http://127.0.0.1:9/v1"
    monkeypatch.setenv("HEADERS", "X-Org: ours")
    run("add_upstream", "azure", url, "--credential-header=api-key", "--headers-env=HEADERS")
    run("add_upstream", "azure", url, "--no-stream-options")
    assert stored() == ("api-key", "X-Org: ours", False)
    with pytest.raises(CommandError, match="enter its headers again"):
        run("add_upstream", "azure", "http://127.0.0.1:10")
    run("add_upstream", "azure", "http://127.0.0.1:10", "--no-headers", "--stream-options")
    assert stored() == ("api-key", "", True)


def test_bad_headers_are_refused_without_repeating_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADERS", "X-Org: ours\nvery-secret")
    with pytest.raises(CommandError, match="Line 2 of the headers") as caught:
        run("add_upstream", "azure", "http://127.0.0.1:9", "--headers-env=HEADERS")
    assert "very-secret" not in str(caught.value)
    assert not Upstream.objects.exists()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://127.0.0.1", "not an http"),
        ("127.0.0.1:8001", "not an http"),
        ("http://", "not an http"),
        ("http://user:word@127.0.0.1", "have a user, password"),
        ("http://127.0.0.1/v1?key=x#y", "have a user, password"),
        ("http://169.254.169.254", "Link-local"),
        ("http://2852039166", "Link-local"),
        ("http://[::1", "not a URL"),
    ],
)
def test_bad_urls_are_refused(url: str, why: str) -> None:
    with pytest.raises(CommandError, match=why):
        run("add_upstream", "vllm", url)
    assert not Upstream.objects.exists()


def test_a_new_address_never_gets_the_old_credential(
    server: ModelListServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_KEY", "very-secret")
    run("add_upstream", "vllm", "http://127.0.0.1:9", "--credential-env=VLLM_KEY")
    server.lists("qwen")
    with pytest.raises(CommandError, match="The base URL of vllm changes"):
        run("add_upstream", "vllm", server.url, "--discover")
    assert server.asked == []
    run("add_upstream", "vllm", server.url, "--discover", "--no-credential")
    assert server.asked == [("/v1/models", None)]
    assert Upstream.objects.get().credential == ""


def test_changing_time_outs_keeps_the_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_KEY", "very-secret")
    run("add_upstream", "vllm", "http://127.0.0.1:9", "--credential-env=VLLM_KEY")
    timeouts = ("--connect-timeout=2", "--first-byte-timeout=90", "--read-timeout=30")
    run("add_upstream", "vllm", "http://127.0.0.1:9", *timeouts)
    upstream = Upstream.objects.get()
    assert (upstream.connect_timeout, upstream.read_timeout) == (2, 30)
    assert upstream.first_byte_timeout == 90
    assert upstream.credential == "very-secret"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--credential-env=UNSET"], "UNSET is not set"),
        (["--credential-env=SPACED"], "a header can.t have"),
        (["--connect-timeout=0"], "connect_timeout"),
        (["--first-byte-timeout=0"], "first_byte_timeout"),
        (["--ca-file=/dev/null"], "https:// only"),
        (["--team=u-8105f7322477"], "add --discover"),
        (["--discover", "--team=nowhere"], "no team with the slug nowhere"),
        (["--credential-env=SPACED", "--no-credential"], "not allowed with"),
    ],
)
def test_bad_options_are_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], why: str
) -> None:
    monkeypatch.setenv("SPACED", "two words")
    with pytest.raises(CommandError, match=why):
        run("add_upstream", "vllm", "http://127.0.0.1:9", *arguments)
    assert not Upstream.objects.exists()


def test_add_model_serves_one_name(team: Team) -> None:
    run("add_upstream", "vllm", "http://127.0.0.1:9")
    assert run("add_model", "public/r1", "--upstream=vllm")[0] == ["public/r1"]
    mine = ["--upstream=vllm", f"--team={team.slug}", "--upstream-model=deepseek/r1"]
    run("add_model", f"{team.slug}/r1", *mine)
    routes = Route.objects.order_by("pk").values_list("model__name", "upstream_model")
    assert list(routes) == [("public/r1", "r1"), ("u-8105f7322477/r1", "deepseek/r1")]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["public/r1", "--upstream=nowhere"], "no model server named nowhere"),
        (["two words", "--upstream=vllm"], "name: Use letters"),
        (
            ["public/r1", "--upstream=vllm", "--team=u-8105f7322477"],
            "must begin with u-8105f7322477/",
        ),
        (["u-8105f7322477/own", "--upstream=vllm"], "already exists"),
    ],
)
def test_add_model_refuses(team: Team, arguments: list[str], why: str) -> None:
    run("add_upstream", "vllm", "http://127.0.0.1:9")
    ServedModel.objects.create(name="u-8105f7322477/own", team=team)
    with pytest.raises(CommandError, match=why):
        run("add_model", *arguments)
    assert not Route.objects.exists()
