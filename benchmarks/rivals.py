"""Other gateways in their default configuration, each with one worker and at most a key to check.

Their versions are pinned, so that figures stay comparable. They are configured to connect to no
other address than the upstream's.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import tools
from benchmarks.processes import TESTED_CORE, Server, running
from benchmarks.servers import LoadTarget
from tests.support.server import free_port

LITELLM = "1.108.7"
PORTKEY = "1.15.2"
START_SECONDS = 180.0  # The first start compiles some hundred modules.
MASTER_KEY = "sk-bench"

# Portkey listens on all addresses and has no option to change that.
_LOOPBACK_ONLY = """
const { Server } = require("node:net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, ...rest) {
  const callback = rest.find((argument) => typeof argument === "function");
  return listen.call(this, { port: Number(port.port ?? port), host: "127.0.0.1" }, callback);
};
"""


@contextmanager
def litellm(upstream: Server, model: str = "instant") -> Iterator[LoadTarget]:
    """LiteLLM's proxy for this model: no database, only its master key."""
    binary = tools.from_pip("litellm", LITELLM, "proxy") / "litellm"
    parameters = {
        "model": f"openai/{model}",
        "api_base": f"{upstream.url}/v1",
        "api_key": "none",
    }
    configuration = {
        "model_list": [{"model_name": "instant", "litellm_params": parameters}],
        "general_settings": {"master_key": MASTER_KEY},
    }
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_TELEMETRY": "False",
    }
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="keyportal-litellm-") as folder:
        file = Path(folder) / "config.yaml"
        file.write_text(json.dumps(configuration))  # JSON is YAML.
        where = ["--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
        command = [str(binary), "--config", str(file), "--num_workers", "1", *where]
        with running(
            command,
            f"http://127.0.0.1:{port}",
            cores=TESTED_CORE,
            environment=environment,
            seconds=START_SECONDS,
        ) as server:
            yield LoadTarget(server, keys=(MASTER_KEY,))


@contextmanager
def portkey(upstream: Server) -> Iterator[LoadTarget]:
    """Portkey's gateway. It checks no key, but passes on the caller's."""
    package = tools.from_npm("@portkey-ai/gateway", PORTKEY) / "node_modules/@portkey-ai/gateway"
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="keyportal-portkey-") as folder:
        preload = Path(folder) / "loopback.cjs"
        preload.write_text(_LOOPBACK_ONLY)
        start = package / "build" / "start-server.js"
        node = str(shutil.which("node"))
        command = [node, "--require", str(preload), str(start), f"--port={port}", "--headless"]
        url = f"http://127.0.0.1:{port}"
        environment = {"NODE_ENV": "production"}
        with running(command, url, cores=TESTED_CORE, environment=environment) as server:
            yield LoadTarget(
                server,
                keys=(MASTER_KEY,),
                headers=(
                    ("x-portkey-provider", "openai"),
                    ("x-portkey-custom-host", f"{upstream.url}/v1"),
                ),
            )
