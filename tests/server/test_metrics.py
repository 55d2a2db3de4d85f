"""`/metrics` of a running server, and that rules and dashboard ask for what is in it."""

import json
import operator
import os
import re
import secrets
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from django.conf import settings

from keyportal.catalog.models import BUILT_IN_URL, Route, ServedModel, Upstream
from keyportal.gateway.metrics.families import FAMILIES
from keyportal.keys.models import ApiKey
from keyportal.notifications.models import QueuedMail
from keyportal.server import metrics
from keyportal.teams.models import User
from tests.support.metrics import Scrape, scrape, value
from tests.support.server import Server, SharedServer, free_port, wait_until

Issue = Callable[..., tuple[ApiKey, str]]
ALERTS = Path(settings.BASE_DIR) / "deploy/prometheus/alerts.yaml"
DASHBOARD = Path(settings.BASE_DIR) / "deploy/grafana/keyportal.json"
PROMTOOL = "apt-get install prometheus"


@pytest.fixture
def key(alice: User, issue: Issue) -> str:
    return issue(alice)[1]


def serve(name: str, url: str) -> str:
    """Serve a public model with this name, from a model server of the same name."""
    upstream = Upstream.objects.create(name=name, base_url=url)
    served = ServedModel.objects.create(name=name)
    Route.objects.create(model=served, upstream=upstream, upstream_model="any")
    return name


@pytest.fixture
def public_model(transactional_db: None) -> str:
    return serve(f"public/{secrets.token_hex(4)}", BUILT_IN_URL)


@pytest.fixture
def dead_model(transactional_db: None) -> str:
    return serve(f"dead-{secrets.token_hex(4)}", f"http://127.0.0.1:{free_port()}/v1")


def read(server: Server) -> Scrape:
    assert isinstance(server, SharedServer)
    return scrape(server.metrics_port)


def requests(server: Server, **labels: str) -> float:
    return value(read(server), "keyportal_requests_total", **labels)


@pytest.mark.gateway
def test_a_call_is_counted_by_endpoint_model_and_status(
    live: Server, key: str, public_model: str
) -> None:
    assert live.chat(key, public_model).status == 200
    labels = {"endpoint": "/chat/completions", "model": public_model, "status": "2xx"}
    wait_until(lambda: requests(live, **labels) == 1)
    found = read(live)
    for name in ("request_duration_seconds", "time_to_first_byte_seconds"):
        count = value(found, f"keyportal_{name}_count", model=public_model)
        assert (count, value(found, f"keyportal_{name}_bucket", model=public_model, le="+Inf")) == (
            1,
            1,
        )
    assert value(found, "keyportal_tokens_total", model=public_model, kind="completion") > 0
    assert value(found, "keyportal_admission_batch_size_count") > 0
    assert value(found, "keyportal_admission_wait_seconds_sum") > 0
    assert value(found, "keyportal_workers") == len(live.workers())
    assert value(found, "keyportal_database_up") == 1
    if settings.IS_POSTGRESQL:
        assert ("keyportal_database_pool_connections", frozenset({("state", "idle")})) in found


@pytest.mark.gateway
@pytest.mark.any_database
def test_what_callers_make_up_is_in_no_label(
    live: Server, key: str, serve_model: Callable[..., str]
) -> None:
    before = value(read(live), "keyportal_refusals_total", reason="model_not_found")
    of_teams = requests(live, model="(team)", status="2xx")
    made_up = f"made-up-{secrets.token_hex(8)}"
    own_model = serve_model("normal", f"own-{secrets.token_hex(8)}")
    assert live.chat(key, made_up).status == 404
    assert live.request("GET", f"/v1/{made_up}", key=key).status == 404
    assert live.chat(None, made_up).status == 401
    assert live.chat(key, own_model).status == 200
    wait_until(
        lambda: value(read(live), "keyportal_refusals_total", reason="model_not_found") > before
    )
    wait_until(lambda: requests(live, model="(team)", status="2xx") > of_teams)
    text = str(read(live))
    assert made_up not in text
    assert own_model not in text
    assert key.rsplit("-", maxsplit=1)[-1][:8] not in text


@pytest.mark.gateway
@pytest.mark.any_database
def test_mails_that_wait(live: Server) -> None:
    mail = QueuedMail.objects.create(
        to="a@example.com", from_email="b@example.com", subject="", body="", headers={}, tries=2
    )
    QueuedMail.objects.filter(pk=mail.pk).update(due_at="2100-01-01T00:00:00Z")
    assert value(read(live), "keyportal_mail_outbox", state="retried") == 1


@pytest.mark.gateway
@pytest.mark.any_database
def test_pages_and_unreadable_requests_are_counted(live: Server) -> None:
    pages = {"area": "portal", "status": "2xx"}

    def counted() -> tuple[float, float, float]:
        found = read(live)
        return (
            value(found, "keyportal_page_duration_seconds_count", **pages),
            value(found, "keyportal_requests_total", endpoint="unreadable", status="4xx"),
            value(found, "keyportal_refusals_total", reason="headers_too_large"),
        )

    before = counted()
    assert live.request("GET", "/accounts/login/").status == 200
    with live.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: x\r\n" * 101 + b"\r\n")
        assert connection.reply().status == 431
    with live.connect() as connection:
        connection.send(b"GET / HTTP/1.1\r\n\r\n")
        assert connection.reply().status == 400
    wanted = [before[0] + 1, before[1] + 2, before[2] + 1]
    wait_until(lambda: all(map(operator.ge, counted(), wanted)))


@pytest.mark.any_database
@pytest.mark.gateway
def test_the_public_port_has_no_metrics(live: Server) -> None:
    assert live.request("GET", "/metrics").status in {302, 404}
    assert b"keyportal_" not in live.request("GET", "/metrics").body


@pytest.mark.any_database
@pytest.mark.gateway
def test_killed_and_replaced_workers_lose_no_counts(
    own_server: Callable[..., Server], key: str, public_model: str
) -> None:
    port = free_port()
    server = own_server(workers=2, KEYPORTAL_METRICS_PORT=str(port))

    def served() -> float:
        try:
            return value(scrape(port), "keyportal_requests_total", model=public_model)
        except OSError:
            return -1  # The worker that listened is gone, and the other one takes over.

    for _ in range(4):
        assert server.chat(key, public_model).status == 200
    wait_until(lambda: served() == 4)
    (folder,) = _open_folders(server)
    first = server.workers()
    os.kill(first[0], signal.SIGKILL)
    wait_until(lambda: first[0] not in server.workers() and len(server.workers()) == 2)
    wait_until(lambda: served() == 4)
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not {*first} & {*server.workers()} and len(server.workers()) == 2)
    wait_until(lambda: served() == 4)
    assert server.chat(key, public_model).status == 200
    wait_until(lambda: served() == 5)
    wait_until(lambda: value(scrape(port), "keyportal_workers") == 2)
    names = {f"{pid}.json" for pid in server.workers()} | {"ended.json"}
    wait_until(lambda: {file.name for file in folder.glob("*.json")} == names)
    server.stop()
    assert not folder.exists()


def _open_folders(server: Server) -> Iterator[Path]:
    """The folders with the files of this server's workers."""
    pids = server.workers()
    folder = Path(os.environ.get("TMPDIR", "/tmp"))
    yield from (
        found
        for found in folder.glob("keyportal-metrics-*")
        if any((found / f"{pid}.json").exists() for pid in pids)
    )


def test_nothing_listens_by_default_and_only_this_machine_may_ask() -> None:
    metrics.make_folder()
    assert metrics._folder is None
    assert settings.METRICS_HOST == "127.0.0.1"


# What rules and dashboard ask for.


def rule_queries() -> dict[str, str]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def panel_queries() -> dict[str, str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels
        for target in panel["targets"]
    }


def known_names() -> set[str]:
    """The names of all samples that `/metrics` can give."""
    names = {"up", "keyportal_workers", "keyportal_database_up", "keyportal_mail_outbox"}
    for family in FAMILIES:
        endings = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
        names |= {family.name + ending for ending in endings[family.kind]}
    return names


def known_labels() -> set[str]:
    own = {label for family in FAMILIES for label in family.labels}
    return own | {"le", "state", "job", "instance"}


@pytest.mark.parametrize(("title", "query"), [*rule_queries().items(), *panel_queries().items()])
def test_queries_ask_for_what_there_is(title: str, query: str) -> None:
    assert {*re.findall(r"\b(?:keyportal_\w+|up)\b", query)} <= known_names()
    compared = re.findall(r'(\w+)\s*(?:=~|!=|=)\s*"', query)
    grouped = [name for some in re.findall(r"by \(([^)]*)\)", query) for name in some.split(", ")]
    assert {*compared, *grouped} <= known_labels()


def test_the_runbook_has_what_the_alerts_refer_to() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    links = {rule["annotations"]["runbook"] for group in groups for rule in group["rules"]}
    runbook = (ALERTS.parents[2] / "docs/runbook.md").read_text()
    headings = re.findall(r"^## (.+)$", runbook, re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    for link in links:
        page, _, anchor = link.partition("#")
        assert page == "docs/runbook.md"
        assert not anchor or anchor in anchors, link


def promtool(*arguments: str) -> str:
    try:
        done = subprocess.run(["promtool", *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.fail(PROMTOOL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_understands_all_queries(tmp_path: Path) -> None:
    """The panels' queries as recording rules, because promtool reads no dashboards."""
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__rate_interval", "1m", query)}
        for number, query in enumerate(panel_queries().values())
    ]
    panels = tmp_path / "panels.yaml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(panels))
    assert f"{len(rule_queries())} rules found" in promtool("check", "rules", str(ALERTS))


@pytest.mark.gateway
@pytest.mark.any_database
def test_an_alert_fires_for_a_dead_model_server(
    live: Server, key: str, dead_model: str, public_model: str, tmp_path: Path
) -> None:
    """promtool evaluates the rules for what `/metrics` gave before and after."""
    assert live.chat(key, public_model).status == 200
    wait_until(lambda: requests(live, model=public_model) == 1)
    before = read(live)
    assert live.chat(key, dead_model).code == "upstream_failed"
    wait_until(lambda: requests(live, model=dead_model, status="5xx") == 1)
    after = read(live)
    assert value(after, "keyportal_upstream_failures_total", upstream=dead_model) >= 1
    scrapes = [before, *[after] * 5]
    summary = f"The model server {dead_model} fails on 1 workers."
    annotations = {"summary": summary, "runbook": "docs/runbook.md#a-model-server-is-dead"}
    labels = {"severity": "critical", "upstream": dead_model}
    fires: list[dict[str, object]] = [{"exp_labels": labels, "exp_annotations": annotations}]
    tests = [_rule_test(scrapes, dead_model, fires), _rule_test(scrapes, public_model, [])]
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": tests}))
    promtool("test", "rules", str(file))


def _rule_test(
    scrapes: list[Scrape], upstream: str, alerts: list[dict[str, object]]
) -> dict[str, object]:
    """What the rule says of this model server, with a minute between two scrapes."""
    sample = ("keyportal_upstream_circuit_open", frozenset({("upstream", upstream)}))
    assert sample in scrapes[-1]
    values = [str(some.get(sample, "_")) for some in scrapes]
    series = f'{sample[0]}{{upstream="{upstream}"}}'
    rule = {"eval_time": "5m", "alertname": "KeyportalUpstreamFails", "exp_alerts": alerts}
    return {
        "interval": "1m",
        "input_series": [{"series": series, "values": " ".join(values)}],
        "alert_rule_test": [rule],
    }


@pytest.mark.any_database
def test_alerts_fire_for_failing_and_for_slow_pages(tmp_path: Path) -> None:
    """A request every 6 seconds: pages take 3 seconds, and a tenth of the management API's fail."""
    count, bucket = (
        "keyportal_page_duration_seconds_count",
        "keyportal_page_duration_seconds_bucket",
    )
    series = {
        f'{count}{{area="portal",status="2xx"}}': "0+10x30",
        f'{count}{{area="api",status="2xx"}}': "0+9x30",
        f'{count}{{area="api",status="5xx"}}': "0+1x30",
        f'{count}{{area="static",status="5xx"}}': "0+10x30",
        f'{bucket}{{area="portal",status="2xx",le="2.5"}}': "0x30",
        f'{bucket}{{area="portal",status="2xx",le="5.0"}}': "0+10x30",
        f'{bucket}{{area="portal",status="2xx",le="+Inf"}}': "0+10x30",
        f'{bucket}{{area="api",status="2xx",le="0.5"}}': "0+10x30",
        f'{bucket}{{area="api",status="2xx",le="+Inf"}}': "0+10x30",
    }
    summaries = {
        ("KeyportalPagesFail", "api"): "10% of all requests to the api fail.",
        ("KeyportalPagesSlow", "portal"): "One in 20 requests to the portal takes 4.875s or more.",
    }
    rules = [
        {"eval_time": time, "alertname": alert, "exp_alerts": _page_alerts(area, summary, time)}
        for (alert, area), summary in summaries.items()
        for time in ("5m", "20m")
    ]
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": rules,
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))
    promtool("test", "rules", str(file))


def _page_alerts(area: str, summary: str, time: str) -> list[dict[str, object]]:
    """None in the first minutes, in which a single request would be enough."""
    link = "docs/runbook.md#pages-fail-or-are-slow"
    alert: dict[str, object] = {
        "exp_labels": {"severity": "warning", "area": area},
        "exp_annotations": {"summary": summary, "runbook": link},
    }
    return [alert] if time == "20m" else []
