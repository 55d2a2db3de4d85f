"""Operators add, edit, switch off and delete model servers."""

import html
import time

import pytest
from django.test import Client

from keyportal.audit.models import Action, AuditEvent
from keyportal.catalog.forms import ENTER_AGAIN
from keyportal.catalog.models import Route, ServedModel, Upstream
from keyportal.catalog.servers.presets import PRESETS
from keyportal.catalog.snapshot import Snapshot
from keyportal.operators import server_access
from keyportal.teams.models import Team, User
from keyportal.teams.sign_in.sessions import BEGAN_AT
from tests.operators.conftest import BeforeLock
from tests.support.cases import own_case
from tests.support.forms import form_data
from tests.support.health import report, sight

pytestmark = pytest.mark.any_database

SERVERS = "/operators/servers/"
CREDENTIAL = "sk-the-servers-own-credential"
HEADERS = "X-Tenant: the-servers-own-tenant"


@pytest.fixture
def upstream(db: None) -> Upstream:
    upstream = Upstream(name="gpu-7", base_url="http://192.0.2.7:8000/v1")
    upstream.credential, upstream.headers = CREDENTIAL, HEADERS
    upstream.save()
    return upstream


def served_by(upstream: Upstream, name: str, team: Team | None = None) -> ServedModel:
    model, _ = ServedModel.objects.get_or_create(name=name, defaults={"team": team})
    Route.objects.create(model=model, upstream=upstream, upstream_model="llama")
    return model


def page(operator: Client, path: str) -> str:
    return operator.get(SERVERS + path).content.decode()


def test_empty_list_says_how_to_begin(operator: Client) -> None:
    assert "No model servers yet." in page(operator, "")


def test_preset_fills_in_the_form(operator: Client) -> None:
    for preset in PRESETS:
        with own_case(preset):
            response = operator.get(f"{SERVERS}add/?preset={preset.name}")
            assert preset.hint in html.unescape(response.content.decode())
            fields = form_data(response)
            assert fields["base_url"] == ([preset.address] if preset.address else [""])
            assert fields["credential_header"] == [preset.credential_header]
            if preset.placeholder:
                assert f"Replace {preset.placeholder}" in preset.hint
            elif preset.address:
                assert operator.post(f"{SERVERS}add/", fields).status_code == 302
                assert Upstream.objects.get().base_url == preset.address


def test_unknown_preset_is_an_empty_form(operator: Client) -> None:
    assert form_data(operator.get(f"{SERVERS}add/?preset=nothing"))["name"] == [""]


def test_operator_adds_a_server(operator: Client) -> None:
    form = form_data(operator.get(f"{SERVERS}add/"))
    form |= {"name": "vllm", "base_url": "http://127.0.0.1:8001", "credential": CREDENTIAL}
    response = operator.post(f"{SERVERS}add/", form | {"headers": HEADERS})
    upstream = Upstream.objects.get()
    assert response["Location"] == f"{SERVERS}{upstream.pk}/"
    assert upstream.base_url == "http://127.0.0.1:8001/v1"
    assert (upstream.credential, upstream.headers) == (CREDENTIAL, HEADERS)
    events = AuditEvent.objects.filter(action=Action.CATALOG_CHANGED)
    assert {event.actor for event in events} == {"olga"}
    assert CREDENTIAL not in "".join(event.target for event in events)


def test_invalid_server_is_refused_and_its_credential_not_sent_back(
    operator: Client, upstream: Upstream
) -> None:
    cases: list[tuple[dict[str, str], str]] = [
        ({"name": ""}, "This field is required."),
        ({"name": "gpu-7"}, "already exists"),
        ({"base_url": "ftp://127.0.0.1"}, "is not an http:// or https:// URL"),
        ({"base_url": "http://169.254.169.254/"}, "metadata addresses are not allowed"),
        ({"credential": "a b"}, "Use visible ASCII characters only."),
        ({"headers": "Host: x"}, "can&#x27;t be set here"),
        ({"connect_timeout": "0"}, "greater than or equal to 0.1"),
        ({"ca_file": "ca.pem"}, "is not an absolute path"),
    ]
    for fields, message in cases:
        with own_case(fields, message):
            form = form_data(operator.get(f"{SERVERS}add/"))
            form |= {
                "name": "new",
                "base_url": "http://127.0.0.1:8001",
                "credential": "sk-typed-now",
            }
            response = operator.post(f"{SERVERS}add/", form | fields)
            assert response.status_code == 422
            assert message in response.content.decode()
            assert "sk-typed-now" not in response.content.decode()
            # Without it, the form of an existing server would then keep the former credential.
            if "credential" not in fields:
                assert ENTER_AGAIN in response.content.decode()
            assert Upstream.objects.get() == upstream


def test_no_page_shows_the_credential(operator: Client, upstream: Upstream) -> None:
    for path in ("", f"{upstream.pk}/", f"{upstream.pk}/edit/", f"{upstream.pk}/delete/"):
        text = page(operator, path)
        assert "gpu-7" in text
        for secret in (CREDENTIAL, "the-servers-own-tenant", upstream.encrypted_credential):
            assert secret not in text
    assert "Stored" in page(operator, f"{upstream.pk}/")


def test_edit_keeps_the_secrets(operator: Client, upstream: Upstream) -> None:
    address = f"{SERVERS}{upstream.pk}/edit/"
    form = form_data(operator.get(address), name="gpu-8", read_timeout="30")
    assert operator.post(address, form).status_code == 302
    changed = Upstream.objects.get()
    assert (changed.name, changed.read_timeout) == ("gpu-8", 30)
    assert (changed.credential, changed.headers) == (CREDENTIAL, HEADERS)
    targets = AuditEvent.objects.values_list("target", flat=True).order_by("pk")
    assert targets.last() == "Model server gpu-8: Name: gpu-7 → gpu-8, Read timeout: 600.0 → 30.0"


def test_new_address_needs_the_secrets_again(operator: Client, upstream: Upstream) -> None:
    address = f"{SERVERS}{upstream.pk}/edit/"
    form = form_data(operator.get(address), base_url="http://192.0.2.66/v1")
    refused = operator.post(address, form)
    assert refused.status_code == 422
    assert "enter its credential again" in refused.content.decode()
    form |= {"credential": "sk-new", "forget_headers": "on"}
    assert operator.post(address, form).status_code == 302
    changed = Upstream.objects.get()
    assert (changed.credential, changed.headers) == ("sk-new", "")


def test_form_that_is_out_of_date_is_refused(operator: Client, upstream: Upstream) -> None:
    address = f"{SERVERS}{upstream.pk}/edit/"
    form = form_data(operator.get(address), name="mine")
    Upstream.objects.update(read_timeout=7)
    response = operator.post(address, form)
    assert response.status_code == 422
    assert "Changed since you opened this page: read timeout." in response.content.decode()
    assert Upstream.objects.get().name == "gpu-7"


def test_server_is_switched_off_and_on(operator: Client, upstream: Upstream, team: Team) -> None:
    model = served_by(upstream, "public/llama")
    assert operator.get(f"{SERVERS}{upstream.pk}/on/")["Location"] == f"{SERVERS}{upstream.pk}/"
    for path, is_called in (("off/", False), ("on/", True)):
        response = operator.post(f"{SERVERS}{upstream.pk}/{path}", follow=True)
        assert ("Switch on" in response.content.decode()) is not is_called
        assert (model in ServedModel.objects.callable_by(team)) is is_called
        assert bool(Snapshot.read("default").models["public/llama"].targets) is is_called
    changes = AuditEvent.objects.filter(target__startswith="Model server gpu-7: Active").order_by(
        "pk"
    )
    assert [event.target.partition(": ")[2] for event in changes] == [
        "Active: yes → no",
        "Active: no → yes",
    ]
    assert {event.actor for event in changes} == {"olga"}


def test_model_that_another_server_serves_too_goes_on(
    operator: Client, upstream: Upstream, team: Team
) -> None:
    other = Upstream.objects.create(name="gpu-8", base_url="http://192.0.2.8:8000/v1")
    both, alone = served_by(upstream, "public/both"), served_by(upstream, "public/alone")
    served_by(other, "public/both")
    text = page(operator, f"{upstream.pk}/delete/")
    assert "1 model will stop" in text
    assert alone.name in text
    assert both.name not in text
    assert operator.post(f"{SERVERS}{upstream.pk}/delete/").status_code == 302
    assert [*ServedModel.objects.callable_by(team)] == [both]
    assert AuditEvent.objects.filter(target="Model server gpu-7: deleted", actor="olga").exists()
    assert "serves no model" not in page(operator, f"{other.pk}/delete/")


def test_pages_show_what_all_workers_met(operator: Client, upstream: Upstream) -> None:
    assert "Not called yet" in page(operator, "")
    report("one", {upstream: sight(60, "ConnectFailed")})
    report("two", {upstream: sight()})
    for path in ("", f"{upstream.pk}/"):
        assert "on 1 of 2 workers, ConnectFailed, since <time" in page(operator, path)
    report("one", {upstream: sight(last_failure="ConnectFailed")})
    text = page(operator, f"{upstream.pk}/")
    assert "reached by all 2 workers" in text
    assert "<dd>ConnectFailed</dd>" in text  # What they met last.


def test_unknown_server_is_404(operator: Client) -> None:
    for path in ("", "edit/", "delete/", "discover/", "models/add/"):
        with own_case(path):
            assert operator.get(f"{SERVERS}4711/{path}").status_code == 404
            assert operator.post(f"{SERVERS}4711/{path}").status_code in {404, 405}


@pytest.mark.parametrize("path", ["edit/", "off/", "on/", "delete/", "models/add/"])
def test_request_of_a_former_operator_changes_nothing(
    upstream: Upstream,
    operator: Client,
    olga: User,
    path: str,
    before_lock: BeforeLock,
) -> None:
    """The flag is taken after the page has let them in, and before the lock."""
    olgas = User.objects.filter(pk=olga.pk)
    before_lock("lock_operators", lambda: olgas.update(is_superuser=False), server_access)
    form = form_data(operator.get(f"{SERVERS}{upstream.pk}/edit/"), name="stolen")
    before = Upstream.objects.values().get()
    response = operator.post(f"{SERVERS}{upstream.pk}/{path}", form | {"upstream_model": "x"})
    assert response.status_code == 404
    assert Upstream.objects.values().get() == before
    assert not Route.objects.exists()


def test_credential_is_entered_only_by_who_signed_in_lately(
    operator: Client, upstream: Upstream
) -> None:
    """Attack: someone at an open session leads the calls of all teams to a server of theirs."""
    session = operator.session
    session[BEGAN_AT] = time.time() - 3600
    session.save()
    for path in ("add/", f"{upstream.pk}/edit/"):
        for response in (
            operator.get(SERVERS + path),
            operator.post(SERVERS + path, {"name": "x"}),
        ):
            assert response.status_code == 302
            assert "/accounts/" in response["Location"]
    assert operator.get(f"{SERVERS}{upstream.pk}/").status_code == 200
    assert Upstream.objects.get().name == "gpu-7"
