"""What can be called, as a table."""

from typing import NamedTuple

from keyportal.keys.rules.permissions import Endpoints


class Endpoint(NamedTuple):
    """Something that can be called, and what its calls are like."""

    path: str
    """Beneath `/v1` here, and beneath the upstream's base URL there."""
    kind: str = ""
    """Which keys it is open to besides those for all: as in `keys.permissions.Endpoints`."""
    does_generate: bool = True
    """The answer is text that a model makes up, so its length is in tokens."""
    has_prompt: bool = True
    """What is sent is text for a model, so its length is in tokens."""
    takes_form: bool = False
    """What is sent is a multipart form, with a file in it."""
    takes_stream_options: bool = False
    """Its streams tell what they used only when asked to, by `stream_options`."""
    is_anthropic: bool = False
    """Servers may want our credential in Anthropic's header."""


CHAT = Endpoints.CHAT.value
# The caller's path picks a row here; the upstream's path is that row, never the caller's text.
ENDPOINTS = {
    f"/v1{endpoint.path}": endpoint
    for endpoint in (
        Endpoint("/chat/completions", CHAT, takes_stream_options=True),
        Endpoint("/completions", CHAT, takes_stream_options=True),
        Endpoint("/responses", CHAT),
        Endpoint("/messages", CHAT, is_anthropic=True),
        Endpoint(
            "/messages/count_tokens", CHAT, does_generate=False, has_prompt=False, is_anthropic=True
        ),
        Endpoint("/embeddings", Endpoints.EMBEDDINGS.value, does_generate=False),
        Endpoint("/moderations", does_generate=False),
        Endpoint("/rerank", does_generate=False),
        Endpoint("/images/generations", does_generate=False),
        Endpoint("/audio/speech", does_generate=False),
        Endpoint("/audio/transcriptions", has_prompt=False, takes_form=True),
    )
}
