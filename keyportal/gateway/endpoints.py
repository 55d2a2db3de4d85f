"""The table of the gateway's endpoints."""

from typing import NamedTuple

from keyportal.keys.rules.permissions import Endpoints


class Endpoint(NamedTuple):
    """One endpoint, and the properties of its calls."""

    path: str
    """Below `/v1` here, and below the upstream's base URL."""
    kind: str = ""
    """The keys that may call it, besides those for all: a value of `Endpoints`."""
    does_generate: bool = True
    """Whether the response is generated text, so that its length is counted in tokens."""
    makes_images: bool = False
    """Whether the response is a list of images, which are counted."""
    has_prompt: bool = True
    """Whether the request has a prompt, so that its length is counted in tokens."""
    takes_form: bool = False
    """Whether the request is a multipart form with a file."""
    takes_stream_options: bool = False
    """Whether its streams report their usage only if `stream_options` asks for it."""
    may_be_stored: bool = False
    """Whether the model server may store its answers, which can then be fetched by their id."""
    is_anthropic: bool = False
    """Whether a server may expect the credential in Anthropic's header."""


MODELS_PATH = "/v1/models"
KEY_PATH = "/v1/key"
CHAT = Endpoints.CHAT.value
# The upstream's path comes from this table, never from the client's path. Attack: a client reaches
# another path of the model server.
ENDPOINTS = {
    f"/v1{endpoint.path}": endpoint
    for endpoint in (
        Endpoint("/chat/completions", CHAT, takes_stream_options=True),
        Endpoint("/completions", CHAT, takes_stream_options=True),
        Endpoint("/responses", CHAT, may_be_stored=True),
        Endpoint("/messages", CHAT, is_anthropic=True),
        Endpoint(
            "/messages/count_tokens", CHAT, does_generate=False, has_prompt=False, is_anthropic=True
        ),
        Endpoint("/embeddings", Endpoints.EMBEDDINGS.value, does_generate=False),
        Endpoint("/moderations", does_generate=False),
        Endpoint("/rerank", does_generate=False),
        Endpoint("/images/generations", does_generate=False, makes_images=True),
        Endpoint("/audio/speech", does_generate=False),
        Endpoint(
            "/images/edits",
            does_generate=False,
            makes_images=True,
            has_prompt=False,
            takes_form=True,
        ),
        Endpoint(
            "/images/variations",
            does_generate=False,
            makes_images=True,
            has_prompt=False,
            takes_form=True,
        ),
        Endpoint("/audio/transcriptions", has_prompt=False, takes_form=True),
        Endpoint("/audio/translations", has_prompt=False, takes_form=True),
    )
}
