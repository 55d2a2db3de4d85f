"""The catalog as one worker routes by: read whole, replaced whole, never changed."""

import logging
from typing import NamedTuple, Self

from django.core.exceptions import ValidationError

from keyportal.catalog import circuit_breaker
from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.models import CatalogVersion, Route, ServedModel, validate_base_url

logger = logging.getLogger(__name__)


class Target(NamedTuple):
    """Where a call goes: one route, with its upstream."""

    fingerprint: str
    """Of the upstream and its settings, see `Upstream.fingerprint`."""
    base_url: str
    credential: str
    model: str
    """What the upstream calls the model."""
    weight: int
    connect_timeout: float
    """Seconds."""
    read_timeout: float
    """Seconds."""


class CatalogEntry(NamedTuple):
    """A name that callers use."""

    name: str
    team_id: int | None
    """None: public."""
    owned_by: str
    created: int
    """Unix time in seconds."""
    targets: tuple[Target, ...]


class Snapshot(NamedTuple):
    """All served models by name, as of `version`."""

    version: int | None
    models: dict[str, CatalogEntry]

    @classmethod
    def empty(cls) -> Self:
        return cls(-1, {})

    @classmethod
    def read(cls, using: str) -> Self:
        """Read from the database with this alias.

        The version comes first: what changes in between is seen too early, and then once more.
        """
        version = CatalogVersion.objects.using(using).filter(pk=1)
        number = version.values_list("version", flat=True).first()
        targets: dict[int, list[Target]] = {}
        routes = Route.objects.using(using).filter(weight__gt=0).select_related("upstream")
        for route in routes.order_by("pk"):
            if target := _target(route):
                targets.setdefault(route.model_id, []).append(target)
        circuit_breaker.forget_all_except(
            {to.fingerprint for some in targets.values() for to in some}
        )
        served = ServedModel.objects.using(using).select_related("team").order_by("name")
        return cls(
            number,
            {
                model.name: CatalogEntry(
                    name=model.name,
                    team_id=model.team_id,
                    owned_by=model.team.slug if model.team else "public",
                    created=int(model.created_at.timestamp()),
                    targets=tuple(targets.get(model.pk, ())),
                )
                for model in served
            },
        )


def _target(route: Route) -> Target | None:
    upstream = route.upstream
    try:
        # A row may have come round the forms, and its address decides where prompts go.
        validate_base_url(upstream.base_url)
        credential = upstream.credential
    except (CredentialUnreadable, ValidationError) as error:
        # One unusable upstream must not take the other models away.
        logger.error("Upstream %s is left out: %s", upstream.name, error)
        return None
    return Target(
        upstream.fingerprint,
        upstream.base_url,
        credential,
        route.upstream_model,
        route.weight,
        upstream.connect_timeout,
        upstream.read_timeout,
    )
