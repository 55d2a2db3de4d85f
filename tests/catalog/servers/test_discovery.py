"""add_upstream --discover, against a real HTTP server on loopback."""

import json
import shlex
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from django.core.management import CommandError
from pytest_django import DjangoAssertNumQueries

from keyportal.catalog.management import discovered_models
from keyportal.catalog.models import CatalogVersion, Route, ServedModel, Upstream
from keyportal.catalog.servers.discovery import DiscoveryFailed, model_ids
from keyportal.http import fetch
from keyportal.teams.models import Team
from tests.support.commands import run
from tests.support.model_list_server import ModelListServer
from tests.support.proxies import make_certificate

pytestmark = pytest.mark.django_db


@pytest.mark.any_database
def test_discovered_models_are_public_and_callable(server: ModelListServer, team: Team) -> None:
    server.lists("deepseek-r1", "meta-llama/Llama-3.1-8B")
    names, said = run("add_upstream", "vllm", server.url, "--discover")
    assert names == ["public/deepseek-r1", "public/meta-llama/Llama-3.1-8B"]
    assert said.startswith(f"Added vllm: {server.url}/v1")
    assert server.asked == [("/v1/models", None)]
    assert [found.name for found in ServedModel.objects.callable_by(team)] == names
    assert Route.objects.get(model__name=names[1]).upstream_model == "meta-llama/Llama-3.1-8B"


@pytest.mark.any_database
def test_models_discovered_for_a_team_are_its_own(
    server: ModelListServer, team: Team, other_team: Team
) -> None:
    server.lists("qwen")
    names, _ = run("add_upstream", "vllm", server.url, "--discover", f"--team={team.slug}")
    assert names == ["u-8105f7322477/qwen"]
    assert ServedModel.objects.get().team == team
    assert not ServedModel.objects.callable_by(other_team).exists()


@pytest.mark.any_database
def test_the_credential_is_shown_to_the_server_and_stored_encrypted(
    server: ModelListServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lists("qwen")
    monkeypatch.setenv("VLLM_KEY", "very-secret")
    run("add_upstream", "vllm", server.url, "--credential-env=VLLM_KEY", "--discover")
    upstream = Upstream.objects.get()
    assert server.asked == [("/v1/models", "Bearer very-secret")]
    assert upstream.credential == "very-secret"
    assert "very-secret" not in upstream.encrypted_credential


@pytest.mark.any_database
def test_headers_and_query_go_with_discovery_too(
    server: ModelListServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lists("qwen")
    monkeypatch.setenv("KEY", "very-secret")
    monkeypatch.setenv("HEADERS", "X-Org: ours\nX-Project: theirs")
    options = ("--credential-env=KEY", "--credential-header=api-key", "--headers-env=HEADERS")
    run("add_upstream", "azure", f"{server.url}/?api-version=1", *options, "--discover")
    assert server.asked == [("/v1/models?api-version=1", None)]
    assert server.headers["api-key"] == "very-secret"
    assert (server.headers["X-Org"], server.headers["X-Project"]) == ("ours", "theirs")
    stored = Upstream.objects.get()
    assert stored.base_url == f"{server.url}/v1?api-version=1"
    assert stored.takes_stream_options
    assert "theirs" not in stored.encrypted_headers


def test_repeating_is_idempotent_and_adds_new_models(server: ModelListServer) -> None:
    server.lists("qwen")
    run("add_upstream", "vllm", server.url, "--discover")
    server.lists("qwen", "phi")
    names, said = run("add_upstream", "vllm", server.url, "--discover")
    assert names == ["public/qwen", "public/phi"]
    assert said.startswith("Changed vllm")
    assert Route.objects.count() == ServedModel.objects.count() == 2


@pytest.mark.any_database
def test_a_second_server_with_the_same_model_shares_its_name(server: ModelListServer) -> None:
    server.lists("qwen")
    run("add_upstream", "one", server.url, "--discover")
    run("add_upstream", "two", server.url, "--discover")
    assert ServedModel.objects.get().routes.count() == 2


@pytest.mark.any_database
def test_invalid_ids_are_skipped_with_a_note(server: ModelListServer) -> None:
    server.lists("qwen", "has spaces", "<script>")
    names, said = run("add_upstream", "vllm", server.url, "--discover")
    assert names == ["public/qwen"]
    assert "Skipped 'has spaces'" in said
    assert "Skipped '<script>'" in said


@pytest.mark.any_database
def test_skipped_ids_come_with_the_command_that_serves_them(
    server: ModelListServer, team: Team
) -> None:
    """Attack: control characters in what a server says rewrite what the terminal displays."""
    server.lists("Große Räder", "a/../b", "..", "\x1b[2Jqwen", "\ud800", "x" * 300, "phi")
    names, said = run("add_upstream", "the server", server.url, "--discover", f"--team={team.slug}")
    assert names == [f"{team.slug}/phi"]
    options = "--upstream 'the server' --upstream-model"
    end = f"--team {team.slug}"
    assert f"manage.py add_model {team.slug}/Gro-e-R-der {options} 'Große Räder' {end}\n" in said
    assert f"manage.py add_model {team.slug}/a/b {options} a/../b {end}\n" in said
    assert f"manage.py add_model {team.slug}/NAME {options} .. {end}\n" in said
    assert "\x1b" not in said
    assert r"Skipped '\x1b[2Jqwen': " in said
    assert r"Skipped '\ud800': " in said
    assert said.count("add_model") == 3
    line = next(line for line in said.splitlines() if "a/../b" in line)
    run(*shlex.split(line.partition("manage.py ")[2]))
    assert ServedModel.objects.callable_by(team).first().name == f"{team.slug}/a/b"  # type: ignore[union-attr]  # the test fails if there is none


@pytest.mark.any_database
def test_reasons_for_thousands_of_skipped_ids_are_not_all_printed(server: ModelListServer) -> None:
    server.lists(*[f"a b {number}" for number in range(500)])
    names, said = run("add_upstream", "vllm", server.url, "--discover")
    assert names == []
    assert said.count("Skipped") == 21
    assert "Skipped 480 more.\nNo model was added." in said


@pytest.mark.any_database
def test_bare_list_is_answered_with_the_commands_to_run(server: ModelListServer) -> None:
    server.body = json.dumps([{"id": "qwen"}, {"id": "phi 4"}]).encode()
    with pytest.raises(CommandError, match="without --discover") as caught:
        run("add_upstream", "vllm", server.url, "--discover")
    assert str(caught.value).splitlines()[1:] == [
        "manage.py add_model public/qwen --upstream vllm --upstream-model qwen",
        "manage.py add_model public/phi-4 --upstream vllm --upstream-model 'phi 4'",
    ]
    assert not Upstream.objects.exists()


@pytest.mark.any_database
def test_words_of_a_server_are_escaped(server: ModelListServer) -> None:
    server.status, server.reason = 500, "Oh\x1b[2J no" + "!" * 1000
    with pytest.raises(CommandError, match=r"answered 500 Oh\\x1b\[2J no!!!") as caught:
        run("add_upstream", "vllm", server.url, "--discover")
    assert len(str(caught.value)) < 400


@pytest.mark.any_database
def test_anthropics_list_is_read_page_by_page(
    server: ModelListServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "sk-ant")

    def page(*ids: str, has_more: bool) -> bytes:
        data = [{"type": "model", "id": id_, "display_name": id_.title()} for id_ in ids]
        return json.dumps({"data": data, "has_more": has_more, "last_id": ids[-1]}).encode()

    server.pages = {
        "/v1/models": page("opus", "a b", has_more=True),
        "/v1/models?limit=1000&after_id=a+b": page("sonnet", "opus", has_more=True),
        "/v1/models?limit=1000&after_id=opus": page("haiku", has_more=False),
    }
    options = ("--credential-env=KEY", "--credential-header=x-api-key", "--discover")
    names, _ = run("add_upstream", "anthropic", server.url, *options)
    assert names == ["public/opus", "public/sonnet", "public/haiku"]
    assert [path for path, _ in server.asked] == list(server.pages)
    assert server.headers["anthropic-version"] == "2023-06-01"
    assert server.headers["x-api-key"] == "sk-ant"


@pytest.mark.any_database
def test_ollamas_own_list_is_read_where_there_is_no_other(server: ModelListServer) -> None:
    models = [{"name": "qwen3:8b", "model": "qwen3:8b"}, {"name": "phi4:latest"}]
    server.pages = {"/api/tags": json.dumps({"models": models}).encode()}
    names, _ = run("add_upstream", "ollama", server.url, "--discover")
    assert names == ["public/qwen3:8b", "public/phi4:latest"]
    # The credential of a longer base URL may be only for what is below it.
    with pytest.raises(CommandError, match="/tenant/v1/models answered 404"):
        run("add_upstream", "other", f"{server.url}/tenant/v1", "--discover")
    assert [path for path, _ in server.asked][2:] == ["/tenant/v1/models"]


@pytest.mark.any_database
def test_list_with_both_names_is_read_as_openais(server: ModelListServer) -> None:
    server.body = b'{"models": [{"name": "file.gguf"}], "data": [{"id": "qwen"}]}'
    assert run("add_upstream", "llama.cpp", server.url, "--discover")[0] == ["public/qwen"]


@pytest.mark.any_database
def test_list_of_too_many_names_is_refused(server: ModelListServer) -> None:
    """Attack: thousands of names fill the catalog, which every worker reads."""
    server.lists(*[f"m{number}" for number in range(2001)])
    with pytest.raises(CommandError, match=r"Nothing was changed: .*more than 2000 models"):
        run("add_upstream", "vllm", server.url, "--discover")
    assert not Upstream.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_many_names_are_stored_in_short_transactions(
    server: ModelListServer, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    """Attack: a server that lists many names locks SQLite, and the gateway refuses calls."""
    ids = [f"m{number}" for number in range(500)]
    server.lists(*ids)
    with django_assert_max_num_queries(50) as queries:
        assert len(run("add_upstream", "vllm", server.url, "--discover")[0]) == 500
    statements = [query["sql"].partition(" ")[0] for query in queries.captured_queries]
    assert statements.count("COMMIT") == 1 + 500 / discovered_models.NAMES_PER_TRANSACTION
    routes = Route.objects.values_list("model__name", "upstream_model")
    assert set(routes) == {(f"public/{id_}", id_) for id_ in ids}


@pytest.mark.any_database
def test_endless_pages_are_refused(server: ModelListServer) -> None:
    server.body = b'{"data": [{"id": "qwen"}], "has_more": true, "last_id": "qwen"}'
    with pytest.raises(CommandError, match="Nothing was changed"):
        run("add_upstream", "vllm", server.url, "--discover")
    assert len(server.asked) <= 30


@pytest.mark.any_database
def test_name_of_another_team_is_skipped(
    server: ModelListServer, team: Team, other_team: Team
) -> None:
    ServedModel.objects.create(name="public/qwen", team=other_team)
    server.lists("qwen")
    names, said = run("add_upstream", "vllm", server.url, "--discover")
    assert names == []
    assert "Skipped 'qwen'" in said
    assert "No model was added." in said
    assert not Route.objects.exists()


def _redirects(server: ModelListServer) -> None:
    server.status, server.location = 302, "http://127.0.0.1:9/elsewhere"


def _needs_a_credential(server: ModelListServer) -> None:
    server.status = 401


def _answers_garbage(server: ModelListServer) -> None:
    server.body = b"<html>not a list</html>"


def _answers_another_shape(server: ModelListServer) -> None:
    server.body = b'{"data": {"id": "qwen"}}'


def _lists_numbers(server: ModelListServer) -> None:
    server.lists("qwen", 7)


def _nests_deeply(server: ModelListServer) -> None:
    server.body = b"[" * 200_000


def _answers_too_much(server: ModelListServer) -> None:
    server.body = b" " * (fetch.MAX_BYTES + 1)


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("misbehave", "why"),
    [
        (_redirects, "answered 302"),
        (_needs_a_credential, "answered 401"),
        (_answers_garbage, "did not return a list of models"),
        (_answers_another_shape, "did not return a list of models"),
        (_lists_numbers, "did not return a list of models"),
        (_nests_deeply, "did not return a list of models"),
        (_answers_too_much, "over 4194304 bytes"),
    ],
)
def test_nothing_is_stored_when_discovery_fails(
    server: ModelListServer, misbehave: Callable[[ModelListServer], None], why: str
) -> None:
    misbehave(server)
    with pytest.raises(CommandError, match=rf"Nothing was changed: .*{why}"):
        run("add_upstream", "vllm", server.url, "--discover")
    assert not Upstream.objects.exists()
    assert not CatalogVersion.objects.exists()
    assert [path for path, _ in server.asked] == ["/v1/models"]


@pytest.mark.any_database
def test_missing_server_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(CommandError, match="Connection refused"):
        run("add_upstream", "vllm", f"http://127.0.0.1:{port}", "--discover")


@pytest.mark.any_database
def test_silent_server_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(CommandError, match=r"timed out|took over"):
            run("add_upstream", "vllm", f"http://127.0.0.1:{port}", "--discover")


@pytest.mark.any_database
def test_slow_server_times_out(server: ModelListServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.3)
    server.body, server.pause = b" " * 100_000, 0.02
    with pytest.raises(CommandError, match=r"took over 0\.3 seconds|timed out"):
        run("add_upstream", "vllm", server.url, "--discover")


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("start", "repeated"),
    [
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"A: b\r\n"),
    ],
    ids=["interim responses", "a trailer"],
)
def test_answer_without_an_end_times_out(
    start: bytes, repeated: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: it is never silent, so no time-out of a socket ends it."""
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.3)
    assert_endless_answer_times_out(start, repeated)


@pytest.mark.any_database
def test_answer_of_a_name_that_resolves_late_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack: when the time is over, there is no connection yet."""
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.3)
    resolve = socket.getaddrinfo

    def resolve_late(*args: Any, **options: Any) -> Any:
        time.sleep(0.5)
        return resolve(*args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_late)
    assert_endless_answer_times_out(b"", b"HTTP/1.1 100 Continue\r\n\r\n")


def assert_endless_answer_times_out(start: bytes, repeated: bytes) -> None:
    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.sendall(start)
            while True:
                connection.sendall(repeated)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=serve, args=[listener])
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(CommandError, match=r"took over 0\.3 seconds|timed out"):
            run("add_upstream", "vllm", url, "--discover")
        thread.join()


@pytest.mark.any_database
def test_environment_proxies_are_not_used(
    server: ModelListServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.lists("qwen")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert run("add_upstream", "vllm", server.url, "--discover")[0] == ["public/qwen"]


@pytest.mark.any_database
def test_connection_goes_to_the_address_that_was_checked(
    server: ModelListServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack: a name that leads elsewhere when it is resolved for the second time."""
    server.lists("qwen")
    resolve, names = socket.getaddrinfo, []

    def getaddrinfo(host: str, *arguments: Any, **more: Any) -> Any:
        names.append(host)
        is_first = names.count(host) == 1
        address = "127.0.0.1" if is_first else "169.254.169.254"
        return resolve(address if host == "models.example" else host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    url = f"http://models.example:{server.server_port}"
    assert run("add_upstream", "vllm", url, "--discover")[0] == ["public/qwen"]
    assert names.count("models.example") == 1
    assert server.hosts == [f"models.example:{server.server_port}"]


@pytest.mark.any_database
def test_name_of_a_metadata_address_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("169.254.169.254", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)
    with pytest.raises(CommandError, match="metadata address"):
        run("add_upstream", "clouds", "http://models.example", "--discover")


@pytest.mark.any_database
def test_models_are_discovered_over_tls(server: ModelListServer, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (both := tmp_path / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.lists("qwen")
    url = f"https://127.0.0.1:{server.server_port}"
    files = (f"--ca-file={certificate}", f"--client-certificate-file={both}")
    with pytest.raises(CommandError, match="CERTIFICATE_VERIFY_FAILED"):
        run("add_upstream", "gpu", url, "--discover")
    assert run("add_upstream", "gpu", url, "--discover", *files)[0] == ["public/qwen"]
    upstream = Upstream.objects.get()
    assert (upstream.ca_file, upstream.client_certificate_file) == (str(certificate), str(both))
    run("add_upstream", "gpu", url, "--client-certificate-file=")
    upstream.refresh_from_db()
    assert (upstream.ca_file, upstream.client_certificate_file) == (str(certificate), "")


@pytest.mark.any_database
def test_stored_disguised_link_local_address_is_not_called() -> None:
    upstream = Upstream(name="clouds", base_url="http://2852039166/v1")  # 169.254.169.254
    with pytest.raises(DiscoveryFailed, match="link-local"):
        model_ids(upstream)


@pytest.mark.any_database
def test_built_in_model_server_cannot_be_discovered() -> None:
    with pytest.raises(CommandError, match="Use add_model"):
        run("add_upstream", "echo", "loopback:", "--discover")
