"""Which endpoint an unusual path means: clients miss `/v1`, double it, or add slashes.

One table decides, and what it does not name is left as it is. The endpoint that a key may call, its
usage and the path on the model server follow from the path that this module returns, and never from
the client's own text.
"""

import re
from typing import NamedTuple

from keyportal.gateway.endpoints import ENDPOINTS, KEY_PATH, MODELS_PATH
from keyportal.gateway.errors import BadRequest
from keyportal.http.types import Headers, Scope

DEPLOYMENT = "keyportal.deployment"
"""The key of the ASGI scope for the model that the client's path names; empty without one."""
# Azure's clients name the model in the path. It may have slashes, also unencoded ones.
DEPLOYMENTS = "/openai/deployments/"
DEPLOYMENT_ENDPOINTS = (
    "/chat/completions",  # Before the next one, which is the end of it.
    "/completions",
    "/embeddings",
    "/audio/speech",
    "/audio/transcriptions",
    "/audio/translations",
    "/images/generations",
    "/images/edits",
)
RESPONSES_PATH = "/v1/responses"
PATHS = (*ENDPOINTS, MODELS_PATH)
# None of these is a page of the portal; a test holds that.
ALIASES = {KEY_PATH: KEY_PATH} | {
    prefix + path.removeprefix("/v1"): path
    for prefix in ("", "/v1", "/v1/v1", "/openai/v1")
    for path in PATHS
}
ALIASES |= {
    "/openai/models": MODELS_PATH,
    "/openai/responses": RESPONSES_PATH,
    "/v2/rerank": "/v1/rerank",  # Cohere's newer one; the bodies of both are alike.
}
_SLASHES = re.compile("//+")


class Match(NamedTuple):
    """An endpoint's own path, and the model if the client's path names one."""

    path: str
    model: str = ""


def find(path: str) -> Match | None:
    """The endpoint that this path means, or None. `path` is decoded, without a query.

    Dots are not resolved. Attack: `/v1/v1/../chat/completions` passes a proxy as something else.
    """
    plain = _SLASHES.sub("/", path).rstrip("/")
    if target := ALIASES.get(plain):
        return Match(target)
    if plain.startswith(DEPLOYMENTS):
        return _deployment(plain.removeprefix(DEPLOYMENTS))
    for path_of_all in (MODELS_PATH, RESPONSES_PATH):
        name = path_of_all.removeprefix("/v1")
        start, _, rest = plain.partition(f"{name}/")
        if rest and ALIASES.get(start + name) == path_of_all:
            return Match(f"{path_of_all}/{rest}")
    return None


def _deployment(rest: str) -> Match | None:
    for endpoint in DEPLOYMENT_ENDPOINTS:
        model = rest.removesuffix(endpoint)
        if model and model != rest:
            return Match(f"/v1{endpoint}", model)
    return None


def check_deployment(scope: Scope, model: str) -> None:
    """Raise `BadRequest` if the path names another model than the body.

    Azure ignores the body's. Attack: a proxy in front has judged the other one.
    """
    deployment = scope.get(DEPLOYMENT)
    if deployment and deployment != model:
        raise BadRequest("The path and the body name different models: send one of them.")


def expects_anthropic(path: str, headers: Headers) -> bool:
    """Whether the client of this request expects Anthropic's shapes, in answers and errors.

    An endpoint has one shape for all. The list of models has both, and so has an address that does
    not exist.
    """
    if endpoint := ENDPOINTS.get(path):
        return endpoint.is_anthropic
    names = {name for name, _ in headers}
    if b"anthropic-version" in names or path.startswith("/v1/messages/"):
        return True
    return b"x-api-key" in names and find(path) is None
