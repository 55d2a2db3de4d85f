"""The clients: what is installed, and the command that calls the model.

`{url}`, `{key}` and `{model}` in a command, a file or a variable are replaced.
"""

from typing import NamedTuple


class Program(NamedTuple):
    """One client. Its command must print the model's answer."""

    name: str
    package: str
    """`pip:NAME` or `npm:NAME`, with extras of pip in brackets."""
    version: str
    command: tuple[str, ...]
    """The first word is a program of the package, or a script in `scripts/`."""
    calls: str
    """What it called, for the table."""
    others: tuple[str, ...] = ()
    """More packages that the script needs, with their versions."""
    variables: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """Name below the home folder, and text."""


PROMPT = "Hello!"
_CODEX = """
model = "{model}"
model_provider = "keyportal"
[model_providers.keyportal]
name = "Keyportal"
base_url = "{url}/v1"
env_key = "KEY"
wire_api = "responses"
"""
_OPENCODE = """
{{"model": "keyportal/{model}",
 "provider": {{"keyportal": {{"npm": "@ai-sdk/openai-compatible", "name": "Keyportal",
   "options": {{"baseURL": "{url}/v1", "apiKey": "{key}"}},
   "models": {{"{model}": {{"name": "Tiny"}}}}}}}}}}
"""
_CONTINUE = """
name: Keyportal
version: 1.0.0
schema: v1
models:
  - name: Tiny
    provider: openai
    model: {model}
    apiBase: {url}/v1
    apiKey: {key}
    roles: [chat]
"""
_LLM = """
- model_id: tiny
  model_name: {model}
  api_base: {url}/v1
  api_key_name: keyportal
"""
_OPENAI_VARIABLES = (
    ("OPENAI_BASE_URL", "{url}/v1"),
    ("OPENAI_API_KEY", "{key}"),
    ("OPENAI_MODEL", "{model}"),
)

PROGRAMS = (
    Program(
        "OpenAI for Python",
        "pip:openai",
        "3.57.0",
        ("openai_python.py",),
        "Chat completions, responses, embeddings, models; also as Azure's client",
    ),
    Program(
        "OpenAI for JavaScript",
        "npm:openai",
        "7.59.0",
        ("openai_node.mjs",),
        "Chat completions, responses",
    ),
    Program(
        "Anthropic for Python",
        "pip:anthropic",
        "2.14.0",
        ("anthropic_python.py",),
        "Messages, token counts, models",
    ),
    Program(
        "Anthropic for JavaScript",
        "npm:@anthropic-ai/sdk",
        "1.14.0",
        ("anthropic_node.mjs",),
        "Messages",
    ),
    Program("Cohere for Python", "pip:cohere", "7.3.1", ("cohere_python.py",), "Rerank"),
    Program(
        "LangChain",
        "pip:langchain-openai",
        "1.7.4",
        ("langchain.py",),
        "Chat completions",
    ),
    Program(
        "LlamaIndex",
        "pip:llama-index-llms-openai-like",
        "0.8.1",
        ("llama_index.py",),
        "Chat completions",
    ),
    Program(
        "Pydantic AI",
        "pip:pydantic-ai-slim[openai]",
        "2.68.0",
        ("pydantic_ai.py",),
        "Chat completions, streamed too",
    ),
    Program(
        "Vercel AI SDK",
        "npm:ai",
        "7.0.173",
        ("ai_sdk.mjs",),
        "Chat completions",
        others=("@ai-sdk/openai-compatible@3.0.92",),
    ),
    Program(
        "llm",
        "pip:llm",
        "0.36",
        ("llm", "-m", "tiny", "--key", "{key}", PROMPT),
        "Chat completions",
        variables=(("LLM_USER_PATH", "{home}"),),
        files=(("extra-openai-models.yaml", _LLM),),
    ),
    Program(
        "aider",
        "pip:aider-chat",
        "0.86.2",
        (
            *("aider", "--model", "openai/{model}", "--message", PROMPT, "--yes-always"),
            *("--no-git", "--no-check-update", "--no-show-model-warnings", "--analytics-disable"),
        ),
        "Chat completions",
        variables=(("OPENAI_API_BASE", "{url}/v1"), ("OPENAI_API_KEY", "{key}")),
    ),
    Program(
        "Claude Code",
        "npm:@anthropic-ai/claude-code",
        "2.1.332",
        ("claude", "--print", PROMPT, "--model", "{model}"),
        "Messages",
        variables=(
            ("ANTHROPIC_BASE_URL", "{url}"),
            ("ANTHROPIC_AUTH_TOKEN", "{key}"),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ),
    ),
    Program(
        "Codex",
        "npm:@openai/codex",
        "0.171.0",
        ("codex", "exec", "--skip-git-repo-check", PROMPT),
        "Responses",
        files=((".codex/config.toml", _CODEX),),
    ),
    Program(
        "opencode",
        "npm:opencode-ai",
        "1.18.33",
        ("opencode", "run", PROMPT),
        "Chat completions",
        files=((".config/opencode/opencode.json", _OPENCODE),),
    ),
    Program(
        "Qwen Code",
        "npm:@qwen-code/qwen-code",
        "0.24.4",
        ("qwen", "--auth-type", "openai", "--prompt", PROMPT),
        "Chat completions",
        variables=_OPENAI_VARIABLES,
    ),
    Program(
        "Continue",
        "npm:@continuedev/cli",
        "1.5.47",
        ("cn", "--config", "{home}/config.yaml", "--print", PROMPT),
        "Chat completions",
        files=(("config.yaml", _CONTINUE),),
    ),
)
