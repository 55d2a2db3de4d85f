"""What is known of a request to `/v1/` or `/auth/verify` when it is over."""

from collections.abc import Callable
from typing import NamedTuple

from keyportal.gateway.endpoints import ENDPOINTS, KEY_PATH, MODELS_PATH


class EndedRequest(NamedTuple):
    """One request. Nothing in it is a key string, a prompt or an answer."""

    request_id: str
    endpoint: str
    """From our own table of endpoints, never what the client sent."""
    status: int
    seconds: float
    code: str = ""
    """Of our own error response; empty without one."""
    model: str = ""
    """The served model; empty if no model that exists and may be called was named."""
    team: str = ""
    """The team's slug; empty without a valid key."""
    public_id: str = ""
    upstream: str = ""
    """The name of the model server that was asked last."""
    first_byte_seconds: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


Observer = Callable[[EndedRequest], None]


UNREADABLE = "unreadable"
"""The endpoint of a request that was refused before its path was known."""


def endpoint_label(path: str) -> str:
    """The endpoint of a path, without `/v1`. Attack: a client makes a label of each path."""
    if endpoint := ENDPOINTS.get(path):
        return endpoint.path
    if path == MODELS_PATH or path.startswith(f"{MODELS_PATH}/"):
        return "/models"
    return "/key" if path == KEY_PATH else "other"
