"""Base URLs, names and routes of models, and the version by which workers see changes."""

from collections.abc import Callable
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from keyportal.catalog.models import CatalogVersion, Route, ServedModel, Upstream, validate_base_url
from keyportal.teams.models import Team
from tests.support.proxies import make_certificate


@pytest.mark.parametrize(
    "url",
    [
        "loopback:",
        "http://127.0.0.1:8001/v1",
        "http://localhost:11434/v1",
        "http://[::1]:8001/v1",
        "http://10.0.0.7/v1",
        "http://192.168.1.5:8000",
        "http://[fd00::1]/v1",
        "https://api.example.com/openai/v1",
        "HTTPS://API.EXAMPLE.COM",
        "https://ours.openai.azure.com/openai/deployments/small?api-version=2024-10-21",
    ],
)
def test_valid_base_urls(url: str) -> None:
    validate_base_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "loopback",
        "api.example.com/v1",
        "//api.example.com",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "unix:/run/model.sock",
        "http://",
        "http:///v1",
        "http://:8001/v1",
        "http://host:port/v1",
        "http://host:99999/v1",
        "http://[::1/v1",
        "http://ho st/v1",
        "http://host/v 1",
        "http://host/v1\n",
        "http://user@host/v1",
        "http://user:word@host/v1",
        "http://host/v1#part",
        "http://169.254.169.254/latest",
        "http://169.254.0.1:8001/v1",
        "http://[fe80::1]/v1",
        "http://[fe80::1%25eth0]/v1",
        "http://[::ffff:169.254.169.254]/v1",
        "http://[::ffff:a9fe:a9fe]/v1",
        "http://2852039166/",
        "http://0xA9FEA9FE/v1",
        "http://0251.0376.0251.0376/v1",
        "http://169.254.43518/v1",
        "http://169.16689662/v1",
        "http://[64:ff9b::a9fe:a9fe]/v1",
        "http://[2002:a9fe:a9fe::]/v1",
        "http://[::169.254.169.254]/v1",
        "http://[fd00:ec2::254]/v1",
        "http://100.100.100.200/v1",
    ],
)
def test_invalid_base_urls(url: str) -> None:
    with pytest.raises(ValidationError):
        validate_base_url(url)


def test_form_reports_bad_base_url() -> None:
    upstream = Upstream(name="clouds", base_url="http://169.254.169.254/v1")
    with pytest.raises(ValidationError, match="Link-local"):
        upstream.clean_fields()


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("base_url", "files", "why"),
    [
        ("https://h/v1", {"ca_file": "/nowhere/ca.pem"}, "No such file"),
        ("https://h/v1", {"ca_file": "/dev/null"}, "can't be used"),
        ("https://h/v1", {"client_certificate_file": "/dev/null"}, "can't be used"),
        ("https://h/v1", {"ca_file": "ca.pem"}, "not an absolute path"),
        ("http://h/v1", {"ca_file": "/dev/null"}, "https:// only"),
    ],
)
def test_certificate_files_must_be_usable(
    db: None, base_url: str, files: dict[str, str], why: str
) -> None:
    with pytest.raises(ValidationError, match=why):
        Upstream(name="gpu", base_url=base_url, **files).full_clean()


@pytest.mark.any_database
def test_certificate_files_are_accepted(db: None, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    (both := tmp_path / "both.pem").write_bytes(certificate.read_bytes() + key.read_bytes())
    files = {"ca_file": str(certificate), "client_certificate_file": str(both)}
    Upstream(name="gpu", base_url="https://h/v1", **files).full_clean()


@pytest.mark.parametrize(
    "name",
    ["test", "u-8105f7322477/test", "public/deepseek-r1", "org/Model_1.5:8b@q4+x", "a/.b/..c/d.."],
)
def test_valid_model_names(db: None, name: str) -> None:
    ServedModel(name=name).full_clean()


@pytest.mark.any_database
@pytest.mark.parametrize(
    "name",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "a b",
        ".a",
        "a\n",
        "ä",
        "a?b",
        "a#b",
        "a/.",
        "a/..",
        "a/../b",
        "a/./b",
    ],
)
def test_invalid_model_names(db: None, name: str) -> None:
    with pytest.raises(ValidationError):
        ServedModel(name=name).full_clean()


def test_names_and_routes_are_unique(model: ServedModel) -> None:
    route = Route.objects.get()
    for twin in (
        ServedModel(name=model.name),
        Upstream(name=route.upstream.name, base_url="http://h/v1"),
        Route(model=model, upstream=route.upstream, upstream_model=route.upstream_model),
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            twin.save()


def test_a_team_may_call_its_own_and_public_models_with_a_route(
    team: Team, other_team: Team, model: ServedModel
) -> None:
    upstream = Upstream.objects.get()
    public = ServedModel.objects.create(name="public/deepseek-r1")
    others = ServedModel.objects.create(name="u-0000000000cc/test", team=other_team)
    for served in (public, others):
        Route.objects.create(model=served, upstream=upstream, upstream_model="m")
    # Two routes must not list a model twice, and a name without a route can't be called.
    Route.objects.create(model=public, upstream=upstream, upstream_model="m2")
    ServedModel.objects.create(name="public/nowhere")
    assert list(ServedModel.objects.callable_by(team)) == [public, model]
    assert list(ServedModel.objects.callable_by(other_team)) == [public, others]


def add_upstream() -> None:
    Upstream.objects.create(name="another", base_url="http://127.0.0.1:8001/v1")


def change_upstream() -> None:
    Upstream.objects.get().save(update_fields=["base_url"])


def add_route() -> None:
    Route.objects.create(
        model=ServedModel.objects.get(), upstream=Upstream.objects.get(), upstream_model="more"
    )


@pytest.mark.parametrize(
    "act",
    [
        add_upstream,
        change_upstream,
        lambda: Upstream.objects.get().delete(),
        lambda: Upstream.objects.all().delete(),
        lambda: ServedModel.objects.create(name="public/more"),
        lambda: ServedModel.objects.get().save(update_fields=["name"]),
        lambda: ServedModel.objects.get().delete(),
        add_route,
        lambda: Route.objects.get().save(update_fields=["weight"]),
        lambda: Route.objects.get().delete(),
        lambda: Team.objects.get().delete(),
    ],
    ids=[
        "upstream added",
        "upstream changed",
        "upstream deleted",
        "upstreams deleted",
        "model added",
        "model changed",
        "model deleted",
        "route added",
        "route changed",
        "route deleted",
        "team deleted",
    ],
)
def test_every_change_changes_the_version(model: ServedModel, act: Callable[[], object]) -> None:
    before = CatalogVersion.objects.get().version
    act()
    assert CatalogVersion.objects.get().version != before


def test_rolled_back_change_keeps_the_version(model: ServedModel) -> None:
    before = CatalogVersion.objects.get().version
    with transaction.atomic():
        model.delete()
        transaction.set_rollback(True)
    assert CatalogVersion.objects.get().version == before
