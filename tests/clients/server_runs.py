"""Calls a model on one model server through Keyportal."""

import secrets
from typing import Any, NamedTuple

from openai import OpenAI, OpenAIError

from benchmarks import tools
from benchmarks.servers import TEAM, Keyportal
from tests.clients.servers import SERVERS, ModelServer, Running

MESSAGES: list[Any] = [{"role": "user", "content": "Hello!"}]


class Outcome(NamedTuple):
    problem: str = ""
    """Empty if complete and streamed answers have a text, and complete ones their tokens."""
    reports_stream_usage: bool = False


def table(outcomes: dict[str, Outcome]) -> str:
    rows = ["| Model server | Version | Result | Tokens of a stream |", "|---|---|---|---|"]
    for server in SERVERS:
        outcome = outcomes[server.name]
        result = outcome.problem.partition(":")[0] or "works"
        tokens = "reported" if outcome.reports_stream_usage else "estimated"
        rows.append(f"| {server.name} | {server.version} | {result} | {tokens} |")
    return "\n".join(rows) + "\n"


def run(server: ModelServer, portal: Keyportal, key: str, upstream_url: str) -> Outcome:
    """Call a model on this server, complete and streamed."""
    try:
        with server.start(upstream_url) as running:
            return _call(OpenAI(base_url=f"{portal.server.url}/v1", api_key=key), portal, running)
    except tools.NotInstalled as error:
        return Outcome(f"not installed: {error}")
    except (OpenAIError, RuntimeError) as error:
        return Outcome(f"failed: {error}")


def _call(client: OpenAI, portal: Keyportal, running: Running) -> Outcome:
    name = f"server-{secrets.token_hex(4)}"
    model = f"{TEAM}/{name}"
    credential = {"CREDENTIAL": running.credential} if running.credential else {}
    options = ["--credential-env", "CREDENTIAL"] if credential else []
    portal.manage("add_upstream", name, running.base_url, *options, **credential)
    route = ("--upstream", name, "--upstream-model", running.model)
    portal.manage("add_model", model, "--team", TEAM, *route)

    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8)
    stream = client.chat.completions.create(
        model=model,
        messages=MESSAGES,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    if "Hello" not in (answer.choices[0].message.content or "") or "Hello" not in text:
        return Outcome(f"no text: {answer!r:.300} {text!r:.300}")
    if not answer.usage:
        return Outcome("no usage")
    return Outcome(reports_stream_usage=any(chunk.usage for chunk in chunks))
