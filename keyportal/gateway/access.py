"""What a key may call: endpoints and models."""

from collections.abc import Mapping

from keyportal.catalog.snapshot import CatalogEntry
from keyportal.gateway.admission.verdict import Verdict
from keyportal.gateway.errors import (
    CredentialUnreadable,
    EndpointNotAllowed,
    GatewayError,
    ModelNotAllowed,
    ModelNotFound,
)
from keyportal.keys.rules.permissions import Endpoints

_ALL_ENDPOINTS = Endpoints.ALL.value
Models = Mapping[str, CatalogEntry]
"""All served models by name."""


def require_endpoint(kind: str, verdict: Verdict) -> None:
    """Raises `EndpointNotAllowed` if the key is for another kind of endpoints."""
    if verdict.endpoints not in (_ALL_ENDPOINTS, kind):
        raise EndpointNotAllowed(Endpoints(verdict.endpoints).label.lower())


def find_model(models: Models, name: str, verdict: Verdict) -> CatalogEntry:
    """Raises `ModelNotFound`, `ModelNotAllowed` or `CredentialUnreadable`.

    Another team's model is answered like one that doesn't exist. Attack: a key's owner learns from
    the error which models another team has.
    """
    served = models.get(name)
    if served is None or not _is_served_to_team(served, verdict):
        raise _refusal(served, verdict)
    if not verdict.may_call(name):
        raise ModelNotAllowed(name, str(verdict.models))
    return served


def _refusal(served: CatalogEntry | None, verdict: Verdict) -> GatewayError:
    """Whose key may not call the model does not learn that it exists."""
    if (
        served is not None
        and served.is_unreadable
        and served.team_id in {None, verdict.team_id}
        and verdict.may_call(served.name)
    ):
        return CredentialUnreadable()
    return ModelNotFound()


def callable_models(models: Models, verdict: Verdict) -> list[CatalogEntry]:
    """The models that the key can call, sorted by name."""
    return [
        served
        for served in models.values()
        if _is_served_to_team(served, verdict) and verdict.may_call(served.name)
    ]


def _is_served_to_team(served: CatalogEntry, verdict: Verdict) -> bool:
    return bool(served.targets) and served.team_id in {None, verdict.team_id}
