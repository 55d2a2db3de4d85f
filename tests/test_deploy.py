"""The files in `deploy/` that run Keyportal agree with the code and with each other."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import yaml
from django.conf import settings

from keyportal.server.doctor.database import OTHER_CONNECTIONS, POOL_CONNECTIONS
from keyportal.server.health import HEALTH_PATHS
from tests.support.nginx import check, nodes_config
from tests.support.proxy_clients import edited_config
from tests.support.server import free_port

ROOT = Path(settings.BASE_DIR)
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OBJECTS: dict[str, Any] = {
    document["kind"]: document
    for document in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
}
POD: dict[str, Any] = OBJECTS["Deployment"]["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
UNIT = (DEPLOY / "keyportal.service").read_text()
NODES = ("node-1", "node-2")
# Of Python and of the shell, not of Keyportal.
OTHER_VARIABLES = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
MAX_CONNECTIONS = 100 - 3  # By default, less those that PostgreSQL keeps for its superuser.


def image_environment() -> dict[str, str]:
    (block,) = re.findall(r"^ENV ((?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    return dict(pair.split("=", 1) for pair in shlex.split(block.replace("\\\n", " ")))


def drain_seconds() -> int:
    """For which a process accepts requests after TERM, in Compose and in Kubernetes."""
    name = "KEYPORTAL_DRAIN_SECONDS"
    compose = COMPOSE["services"]["node-1"]["environment"][name]
    (pod,) = [one["value"] for one in CONTAINER["env"] if one["name"] == name]
    assert int(compose) == int(pod)
    return int(pod)


def seconds(text: str) -> int:
    assert text.endswith("s"), text
    return int(text[:-1])


def test_every_variable_is_one_of_the_settings() -> None:
    pod = {variable["name"] for variable in CONTAINER["env"]}
    unit = set(re.findall(r"(?:^Environment=|\s)([A-Z_]+)=", UNIT, re.MULTILINE))
    named = (
        pod | unit | set(image_environment()) | set(COMPOSE["services"]["node-1"]["environment"])
    )
    assert named - OTHER_VARIABLES <= settings.VARIABLES
    assert {"DATABASE_URL", "SECRET_KEY", "KEYPORTAL_CREDENTIAL_KEYS"} <= pod & named


def test_the_image_contains_what_the_server_needs_and_no_data_of_this_checkout() -> None:
    copied = set(re.findall(r"^COPY (?!--from)(\S+) ", DOCKERFILE, re.MULTILINE))
    assert copied == {"requirements.txt", "manage.py", "keyportal", "templates", "static"}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_the_image_installs_only_wheels_with_the_hashes_of_the_lock() -> None:
    assert "--require-hashes --only-binary=:all: -r requirements.txt" in DOCKERFILE
    assert DOCKERFILE.count("pip install") == 1


def test_the_image_runs_as_a_plain_user_who_owns_the_data_folder() -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    assert f"useradd --uid {user} " in DOCKERFILE
    assert POD["securityContext"]["runAsUser"] == POD["securityContext"]["fsGroup"] == int(user)
    (data,) = [one for one in COMPOSE["services"]["node-1"]["tmpfs"] if one.startswith("/data")]
    assert f"uid={user},gid={user}" in data
    assert image_environment()["KEYPORTAL_DATA"] == "/data"
    assert {mount["mountPath"] for mount in CONTAINER["volumeMounts"]} == {"/data", "/tmp"}


def test_root_file_systems_are_read_only() -> None:
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"] is True
    assert all(COMPOSE["services"][node]["read_only"] is True for node in NODES)
    assert "\nProtectSystem=strict\n" in UNIT


def test_health_checks_ask_an_address_that_is_served_on_the_port() -> None:
    port = image_environment()["PORT"]
    assert f"EXPOSE {port}\n" in DOCKERFILE
    (command,) = re.findall(r"^    CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    script = json.loads(command)[2]
    assert "'/readyz'" in script
    compile(script, "HEALTHCHECK", "exec")
    (container_port,) = CONTAINER["ports"]
    assert str(container_port["containerPort"]) == port
    assert OBJECTS["Service"]["spec"]["ports"][0]["targetPort"] == container_port["name"]
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = CONTAINER[name]["httpGet"]
        assert probe["path"] in HEALTH_PATHS
        assert probe["port"] == container_port["name"]
    # Without its database a process is not ready, but a restart would not help.
    assert CONTAINER["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert CONTAINER["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_a_stop_waits_longer_than_calls_may_run() -> None:
    longest = settings.GRACEFUL_TIMEOUT + drain_seconds()
    assert POD["terminationGracePeriodSeconds"] > longest
    for node in NODES:
        assert seconds(COMPOSE["services"][node]["stop_grace_period"]) > longest
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)s$", UNIT, re.MULTILINE)
    assert int(stop) > longest


def test_nodes_have_the_same_settings_and_trust_nginx_alone() -> None:
    first, second = (COMPOSE["services"][node] for node in NODES)
    assert first["environment"] == second["environment"]
    nginx = COMPOSE["services"]["nginx"]["networks"]["nodes"]["ipv4_address"]
    assert first["environment"]["KEYPORTAL_TRUSTED_PROXIES"] == nginx
    configuration = (DEPLOY / "nginx-nodes.conf").read_text()
    port = image_environment()["PORT"]
    assert re.findall(r"^    server (\S+) ", configuration, re.MULTILINE) == [
        f"{node}:{port}" for node in NODES
    ]
    mounted = [volume.split(":")[0] for volume in COMPOSE["services"]["nginx"]["volumes"]]
    assert mounted == ["./nginx-nodes.conf", "./tls"]


def test_secrets_have_no_defaults() -> None:
    """Attack: a password that everybody can read in the repository."""
    environment = COMPOSE["services"]["node-1"]["environment"]
    for name in ("SECRET_KEY", "KEYPORTAL_CREDENTIAL_KEYS"):
        assert environment[name] == f"${{{name}:?}}"
    assert "keyportal:${POSTGRES_PASSWORD:?}@" in environment["DATABASE_URL"]
    database = COMPOSE["services"]["database"]["environment"]
    assert database["POSTGRES_PASSWORD"] == "${POSTGRES_PASSWORD:?}"
    secrets = [one for one in CONTAINER["env"] if "value" not in one]
    assert {one["valueFrom"]["secretKeyRef"]["name"] for one in secrets} == {"keyportal"}


def test_kubernetes_objects_select_the_same_pods() -> None:
    labels = OBJECTS["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert OBJECTS["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    target = OBJECTS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert target["name"] == OBJECTS["Deployment"]["metadata"]["name"]
    assert POD["serviceAccountName"] == OBJECTS["ServiceAccount"]["metadata"]["name"]
    assert POD["enableServiceLinks"] is False


def test_all_pods_fit_into_the_connections_of_the_database() -> None:
    autoscaler = OBJECTS["HorizontalPodAutoscaler"]["spec"]
    surge = OBJECTS["Deployment"]["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    (workers,) = [int(one["value"]) for one in CONTAINER["env"] if one["name"] == "WEB_CONCURRENCY"]
    needed = (autoscaler["maxReplicas"] + surge) * workers * (POOL_CONNECTIONS + OTHER_CONNECTIONS)
    assert needed <= MAX_CONNECTIONS
    assert f"{needed} of the {MAX_CONNECTIONS}" in (DEPLOY / "kubernetes.yaml").read_text()


def test_nginx_accepts_the_configurations(tmp_path: Path) -> None:
    nodes = nodes_config(tmp_path, [8001, 8002])
    forward = edited_config(
        DEPLOY / "nginx-forward-auth.conf",
        ("listen 443 ssl;", f"listen 127.0.0.1:{free_port()};"),
    )
    assert check(nodes, tmp_path) == ""
    assert check(forward, tmp_path) == ""


def test_nginx_agrees_with_the_settings() -> None:
    text = (DEPLOY / "nginx-nodes.conf").read_text()
    (idle,) = re.findall(r"^    keepalive_timeout (\d+)s;", text, re.MULTILINE)
    # Else nginx would send a request on a connection that a stopping process closes.
    assert int(idle) < drain_seconds()
    (body,) = re.findall(r"client_max_body_size (\d+)m;", text)
    assert int(body) * 1024 * 1024 == settings.MAX_BODY_BYTES
    directives = re.sub(r"#.*", "", text)
    assert "non_idempotent" not in directives
    assert "proxy_buffering off;" in directives
