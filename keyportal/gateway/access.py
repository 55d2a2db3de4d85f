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
    served = find_served(models, name, verdict)
    if served is None or not served.targets or not served.is_served_to(verdict.team_id):
        raise _refusal(served, name, verdict)
    # By the model's own name. Attack: an alias leads a key to a model that it may not call.
    if not verdict.may_call(served.name):
        raise ModelNotAllowed(name, str(verdict.models))
    return served


def find_served(models: Models, name: str, verdict: Verdict) -> CatalogEntry | None:
    """What the name means to the key's team, whether or not it may call that."""
    served = models.get(name)
    if served is not None and served.by_team:
        return served.by_team.get(verdict.team_id, served)
    return served


def _refusal(served: CatalogEntry | None, name: str, verdict: Verdict) -> GatewayError:
    """Whose key may not call the model does not learn that it exists."""
    if (
        served is not None
        and served.is_unreadable
        and served.is_served_to(verdict.team_id)
        and verdict.may_call(served.name)
    ):
        return CredentialUnreadable()
    return ModelNotFound(name)


def callable_models(models: Models, verdict: Verdict) -> list[CatalogEntry]:
    """The models that the key can call, also by their aliases, sorted by these names."""
    meant = (served.by_team.get(verdict.team_id, served) for served in models.values())
    return sorted(
        (
            served
            for served in meant
            if served.targets
            and served.is_served_to(verdict.team_id)
            and verdict.may_call(served.name)
        ),
        key=lambda served: served.id,
    )
