"""The model servers: real ones with a tiny model, and another gateway."""

import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks import rivals, tools
from benchmarks.processes import OTHER_CORES, Server, running
from tests.support.server import free_port

SCRIPTS = Path(__file__).parent / "scripts"
GGUF = "0.19.0"
LLAMA_CPP_PYTHON = "0.3.36"


class Running(NamedTuple):
    """A model server that runs, and how to register it."""

    base_url: str
    model: str
    credential: str = ""


class ModelServer(NamedTuple):
    """`start` takes the URL of the fake model server, for a gateway that needs another server."""

    name: str
    version: str
    start: Callable[[str], AbstractContextManager[Running]]


@contextmanager
def llama_cpp_python(_: str) -> Iterator[Running]:
    """Its Python server. pip compiles it, which takes a C++ compiler and some minutes."""
    binaries = tools.from_pip("llama-cpp-python", LLAMA_CPP_PYTHON, "server")
    with _llama([str(binaries / "python"), "-m", "llama_cpp.server"]) as server:
        yield server


@contextmanager
def _llama(command: list[str]) -> Iterator[Running]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="keyportal-llama-") as folder:
        file = f"{folder}/tiny.gguf"
        interpreter = str(tools.from_pip("gguf", GGUF) / "python")
        subprocess.run([interpreter, "-I", str(SCRIPTS / "tiny_model.py"), file], check=True)
        options = ["--model", file, "--host", "127.0.0.1", "--port", str(port)]
        with running([*command, *options], url, cores=OTHER_CORES):
            yield Running(f"{url}/v1", "tiny")


@contextmanager
def litellm(upstream_url: str) -> Iterator[Running]:
    """Its proxy, in front of the fake model server."""
    upstream = Server(upstream_url.removesuffix("/v1"), 0)
    with rivals.litellm(upstream, "normal") as target:
        yield Running(f"{target.url}/v1", target.model, rivals.MASTER_KEY)


SERVERS = (
    ModelServer("llama-cpp-python", LLAMA_CPP_PYTHON, llama_cpp_python),
    ModelServer("LiteLLM", rivals.LITELLM, litellm),
)
