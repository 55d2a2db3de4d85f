"""What is usual for a kind of model server. A preset only fills in the form of a new one."""

from typing import Any, NamedTuple

from keyportal.catalog.headers import CredentialHeader


class Preset(NamedTuple):
    name: str
    label: str
    address: str
    hint: str
    credential_header: CredentialHeader = CredentialHeader.AUTHORIZATION
    takes_stream_options: bool = True
    first_byte_timeout: float = 600
    placeholder: str = ""
    """The part of `address` that a person must replace."""

    @property
    def initial(self) -> dict[str, Any]:
        """The values of the form's fields."""
        return {
            "name": self.name if self.address else "",
            "base_url": self.address,
            "credential_header": self.credential_header,
            "takes_stream_options": self.takes_stream_options,
            "first_byte_timeout": self.first_byte_timeout,
        }


PRESETS = (
    Preset(
        "vllm",
        "vLLM",
        "http://127.0.0.1:8000/v1",
        "A credential is needed only if vLLM was started with --api-key. Its usual port 8000 is "
        "also Keyportal's: on the same machine, start vLLM with another --port.",
    ),
    Preset(
        "ollama",
        "Ollama",
        "http://127.0.0.1:11434/v1",
        "Ollama needs no credential. The first answer of a model takes as long as it is loaded.",
    ),
    Preset(
        "llama-cpp",
        "llama.cpp",
        "http://127.0.0.1:8080/v1",
        "A credential is needed only if llama-server was started with --api-key.",
    ),
    Preset(
        "openai",
        "OpenAI",
        "https://api.openai.com/v1",
        "The credential is an API key of OpenAI. For a project or an organization, add the header "
        "OpenAI-Project or OpenAI-Organization.",
    ),
    Preset(
        "azure",
        "Azure OpenAI",
        "https://NAME.openai.azure.com/openai/v1",
        "Replace NAME by the name of your resource. The credential is one of its keys.",
        CredentialHeader.API_KEY,
        placeholder="NAME",
    ),
    Preset(
        "anthropic",
        "Anthropic",
        "https://api.anthropic.com/v1",
        "The credential is an API key of Anthropic.",
        CredentialHeader.X_API_KEY,
    ),
    Preset(
        "other",
        "Other",
        "",
        "Any server that speaks OpenAI's protocol, such as OpenRouter, LiteLLM, TGI or SGLang.",
    ),
)


def presets_for(team: object) -> tuple[Preset, ...]:
    """Those of hosted servers for a team, which has no server in this network; else all."""
    if team is None:
        return PRESETS
    return tuple(preset for preset in PRESETS if not preset.address.startswith("http:"))
