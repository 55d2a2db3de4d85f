"""The snapshot of the catalog: complete, with weights, and without unusable routes."""

import pytest
from pytest_django import DjangoAssertNumQueries, Settings

from keyportal.catalog import circuit_breaker
from keyportal.catalog import snapshot as module
from keyportal.catalog.credentials import encrypt
from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.models import CatalogVersion, Route, ServedModel, Upstream
from keyportal.catalog.snapshot import CatalogEntry, Snapshot, Target
from keyportal.teams.models import Team

BEARER = (b"authorization", b"Bearer sk-upstream")
OTHER_KEY = "YW5vdGhlci1rZXktZm9yLXRlc3RzLW9ubHktb25lLTI="


def upstream(name: str, credential: str = "") -> Upstream:
    created = Upstream(name=name, base_url=f"http://{name}.example/v1", connect_timeout=2)
    created.credential = credential
    created.save()
    return created


def route(model: ServedModel, to: Upstream, name: str = "theirs", weight: int = 1) -> None:
    Route.objects.create(model=model, upstream=to, upstream_model=name, weight=weight)


def read() -> Snapshot:
    return Snapshot.read("default")


@pytest.fixture
def public(db: None) -> ServedModel:
    return ServedModel.objects.create(name="public/llama")


def test_empty_snapshot_is_older_than_any_version() -> None:
    assert Snapshot.empty().models == {}
    assert Snapshot.empty().version == -1


@pytest.mark.any_database
@pytest.mark.django_db
def test_empty_catalog_is_read_once() -> None:
    """Its version is None, as in the query for verdicts, so workers don't read it again forever."""
    assert read() == Snapshot(None, {})


def test_model_is_read_with_everything_a_call_needs(public: ServedModel) -> None:
    gpu = upstream("gpu", "sk-upstream")
    gpu.first_byte_timeout = 30
    gpu.ca_file, gpu.client_certificate_file = "/etc/ca.pem", "/etc/client.pem"
    gpu.save()
    route(public, gpu, "meta/llama", weight=3)
    snapshot = read()
    assert snapshot.version == CatalogVersion.objects.get().version
    assert snapshot.models == {
        "public/llama": CatalogEntry(
            name="public/llama",
            team_id=None,
            owned_by="public",
            created=int(public.created_at.timestamp()),
            targets=(
                Target(
                    gpu.fingerprint,
                    "http://gpu.example/v1",
                    ServerHeaders(
                        usual=(BEARER,), anthropic=(BEARER, (b"x-api-key", b"sk-upstream"))
                    ),
                    "meta/llama",
                    weight=3,
                    connect_timeout=2,
                    read_timeout=600,
                    sends_keepalive=True,
                    upstream_id=gpu.pk,
                    takes_stream_options=True,
                    first_byte_timeout=30,
                    ca_file="/etc/ca.pem",
                    client_certificate_file="/etc/client.pem",
                    name="gpu",
                ),
            ),
        )
    }


def test_model_of_a_team_has_its_team_id(team: Team) -> None:
    ServedModel.objects.create(name="u-8105f7322477/own", team=team)
    own = read().models["u-8105f7322477/own"]
    assert (own.team_id, own.owned_by) == (team.pk, team.slug)


@pytest.mark.any_database
def test_models_are_in_order_of_their_names(public: ServedModel) -> None:
    for name in ("z", "a", "m"):
        ServedModel.objects.create(name=name)
    assert list(read().models) == ["a", "m", "public/llama", "z"]


@pytest.mark.any_database
def test_a_model_without_a_route_has_no_target(public: ServedModel) -> None:
    assert read().models[public.name].targets == ()


@pytest.mark.any_database
def test_routes_with_weight_are_targets(public: ServedModel) -> None:
    one, two = upstream("one"), upstream("two")
    route(public, one, "a", weight=1)
    route(public, one, "b", weight=0)
    route(public, two, "a", weight=5)
    found = [(to.fingerprint, to.model, to.weight) for to in read().models[public.name].targets]
    assert found == [(one.fingerprint, "a", 1), (two.fingerprint, "a", 5)]


def test_reading_costs_a_constant_number_of_queries(
    public: ServedModel, team: Team, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(6):
        model = ServedModel.objects.create(name=f"{team.slug}/{number}", team=team)
        route(model, upstream(f"up-{number}"))
    with django_assert_num_queries(6):
        assert len(read().models) == 7


@pytest.mark.any_database
def test_unreadable_credential_removes_only_its_routes(
    public: ServedModel, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    other = ServedModel.objects.create(name="public/other")
    key = settings.CREDENTIAL_KEYS
    settings.CREDENTIAL_KEYS = (OTHER_KEY,)
    broken = upstream("broken", "sk-lost")
    settings.CREDENTIAL_KEYS = key
    route(public, broken)
    sound = upstream("sound", "sk-kept")
    route(public, sound)
    route(other, broken)
    models = read().models
    assert [to.fingerprint for to in models["public/llama"].targets] == [sound.fingerprint]
    assert models["public/other"].targets == ()
    assert models["public/other"].is_unreadable
    assert "broken" in caplog.text
    assert "sk-lost" not in caplog.text


@pytest.mark.any_database
@pytest.mark.parametrize(
    "change",
    [
        {"encrypted_headers": encrypt("Host: other.example")},
        {"encrypted_headers": encrypt("X-A: 1\r\n\r\nGET / HTTP/1.1")},
        {"encrypted_headers": encrypt("Authorization: Basic YTpi")},
        {"credential_header": "cookie"},
    ],
)
def test_invalid_stored_headers_are_not_used(
    public: ServedModel, caplog: pytest.LogCaptureFixture, change: dict[str, str]
) -> None:
    odd = upstream("odd", "sk-odd")
    Upstream.objects.filter(pk=odd.pk).update(**change)
    route(public, odd)
    assert read().models[public.name].targets == ()
    assert "Model server odd is not used" in caplog.text
    assert "sk-odd" not in caplog.text


def test_the_version_is_read_first(public: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change while it is read leaves the old version, so it is read again."""
    route(public, upstream("gpu"))
    before = CatalogVersion.objects.get().version

    target = module._target

    def change_meanwhile(route: Route) -> Target:
        ServedModel.objects.create(name="public/new")
        return target(route)

    monkeypatch.setattr(module, "_target", change_meanwhile)
    assert read().version == before
    assert CatalogVersion.objects.get().version != before


@pytest.mark.any_database
def test_invalid_stored_base_url_is_not_used(
    public: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    metadata = upstream("metadata")
    Upstream.objects.filter(pk=metadata.pk).update(base_url="http://169.254.169.254/v1")
    route(public, metadata)
    assert read().models[public.name].targets == ()
    assert "metadata" in caplog.text


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("base_url", "http://right.example/v1"),
        ("credential", "sk-right"),
        ("credential_header", "api-key"),
        ("headers", "X-Org: ours"),
        ("takes_stream_options", False),
        ("connect_timeout", 7),
        ("first_byte_timeout", 7),
        ("read_timeout", 7),
        ("ca_file", "/etc/ca.pem"),
        ("client_certificate_file", "/etc/client.pem"),
    ],
)
def test_changed_upstream_gets_a_new_breaker(
    public: ServedModel, change: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those of other rows with the same ids would count too, a second later.
    monkeypatch.setattr(circuit_breaker, "_breakers", {})
    corrected, other = upstream("corrected", "sk-wrong"), upstream("other")
    route(public, corrected)
    route(public, other)
    before = corrected.fingerprint
    for server in (corrected, other):
        circuit_breaker.breaker_for(server.fingerprint).record_failure("401")
    read()
    assert circuit_breaker.breaker_for(before).failures == 1
    setattr(corrected, change, value)
    corrected.save()
    read()
    assert not circuit_breaker.breaker_for(before).failures
    assert not circuit_breaker.breaker_for(corrected.fingerprint).failures
    assert circuit_breaker.breaker_for(other.fingerprint).failures == 1


@pytest.mark.any_database
def test_breaker_of_deleted_upstream_is_deleted(public: ServedModel) -> None:
    gone = upstream("gone")
    route(public, gone)
    fingerprint = gone.fingerprint
    circuit_breaker.breaker_for(fingerprint).record_failure("502")
    gone.delete()
    read()
    assert not circuit_breaker.breaker_for(fingerprint).failures


@pytest.mark.any_database
def test_what_is_known_of_a_model_ends_with_its_route(public: ServedModel) -> None:
    """Attack: an admin serves one name after the other on a team's server, which refuses them."""
    server = upstream("gpu-1")
    for name in ("kept", "former"):
        route(public, server, name)
    breaker = circuit_breaker.breaker_for(server.fingerprint)
    for name in ("kept", "former"):
        breaker.record_refusal(name, "404")
        breaker.takes_stream_options[name] = False
    read()
    assert breaker.refusals == {"kept": "404", "former": "404"}
    Route.objects.get(upstream_model="former").delete()
    read()
    assert breaker.refusals == {"kept": "404"}
    assert breaker.takes_stream_options == {"kept": False}


@pytest.mark.any_database
def test_renamed_upstream_keeps_its_breaker(public: ServedModel) -> None:
    renamed = upstream("before")
    route(public, renamed)
    circuit_breaker.breaker_for(renamed.fingerprint).record_failure("502")
    renamed.name = "after"
    renamed.save()
    read()
    assert circuit_breaker.breaker_for(renamed.fingerprint).failures == 1
