"""The health of servers and models is what all workers that run have met."""

import pytest

from keyportal.catalog.circuit_breaker import LACKS_MODEL, REFUSES_CREDENTIAL
from keyportal.catalog.models import Upstream
from keyportal.catalog.servers.health import Health, ServerHealth
from tests.support.health import report, sight


@pytest.fixture
def server(db: None) -> Upstream:
    return Upstream.objects.create(name="gpu-7", base_url="http://192.0.2.7:8000/v1")


def health_of(server: Upstream) -> ServerHealth:
    return Health.read().of_server(server.fingerprint)


def test_workers_are_counted_together(server: Upstream) -> None:
    assert str(health_of(server)) == "Not called yet"
    report("one", {server: sight()})
    assert str(health_of(server)) == "Answers"
    report("two", {})
    assert str(health_of(server)) == "Answers (reached by 1 of 2 workers)"
    report("two", {server: sight(last_failure="502")})
    assert str(health_of(server)) == "Answers (reached by all 2 workers)"
    assert health_of(server).last_failures == "answered 502"
    report("two", {server: sight(60, "UpstreamTimedOut")})
    report("three", {server: sight(3600, "503")})
    health = health_of(server)
    assert str(health) == "Fails (on 2 of 3 workers, answered 503, took too long to answer)"
    assert health.since
    row = Health.read().of_model([(server.fingerprint, "x")])
    assert (str(row), row.since) == ("Fails on 2 of 3 workers", health.since)


def test_worker_that_has_ended_drops_out(server: Upstream) -> None:
    report("killed", {server: sight(5, "502")}, age=200)
    report("running", {server: sight()}, age=100)
    assert str(health_of(server)) == "Answers"


def test_row_of_a_changed_server_says_nothing(server: Upstream) -> None:
    report("one", {server: sight(5, "502")})
    server.base_url = "http://192.0.2.8:8000/v1"
    server.save()
    assert str(health_of(server)) == "Not called yet"


@pytest.mark.any_database
def test_refusals_name_the_model(server: Upstream) -> None:
    report("one", {server: sight(x=LACKS_MODEL)})
    report("two", {server: sight()})
    health = Health.read()
    assert str(health.of_server(server.fingerprint)).startswith("Refuses (reached by all 2")
    assert str(health.of_model([(server.fingerprint, "x")])) == f"Fails: {LACKS_MODEL}"
    assert str(health.of_model([(server.fingerprint, "y")])) == "Answers"


@pytest.mark.any_database
def test_refused_credential_is_that_of_all_models(server: Upstream) -> None:
    report("one", {server: sight(5, "401", x=REFUSES_CREDENTIAL)})
    health = Health.read()
    assert str(health.of_model([(server.fingerprint, "y")])) == f"Fails: {REFUSES_CREDENTIAL}"


@pytest.mark.any_database
def test_model_names_no_server(server: Upstream) -> None:
    other = Upstream.objects.create(name="gpu-8", base_url="http://192.0.2.8:8000/v1")
    routes = [(server.fingerprint, "x"), (other.fingerprint, "x")]
    report("one", {server: sight(5, "502"), other: sight()})
    assert str(Health.read().of_model(routes)) == "1 of 2 servers fail"
    report("two", {server: sight()})
    assert str(Health.read().of_model(routes)) == "1 of 2 servers fail on 1 of 2 workers"
    report("two", {server: sight(), other: sight(5, "502")})
    assert str(Health.read().of_model(routes)) == "Fails on some workers"
