"""The immutable copy of the catalog by which a worker routes calls."""

import logging
from typing import NamedTuple, Self

from django.core.exceptions import ValidationError

from keyportal.catalog import circuit_breaker
from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.headers import ServerHeaders
from keyportal.catalog.models import CatalogVersion, Route, ServedModel, validate_base_url

logger = logging.getLogger(__name__)


class Target(NamedTuple):
    """One route with its upstream."""

    fingerprint: str
    """`Upstream.fingerprint`."""
    base_url: str
    headers: ServerHeaders
    model: str
    """The model's name on the upstream."""
    weight: int
    connect_timeout: float
    """Seconds."""
    read_timeout: float
    """Seconds."""
    sends_keepalive: bool = True
    """Whether callers get comments while a stream of this server is silent."""
    upstream_id: int = 0
    takes_stream_options: bool = True
    first_byte_timeout: float = 600
    """Seconds."""
    ca_file: str = ""
    client_certificate_file: str = ""
    name: str = ""
    """The upstream's, for the log."""


class CatalogEntry(NamedTuple):
    """A served model with its routes."""

    name: str
    team_id: int | None
    """None: public."""
    owned_by: str
    created: int
    """Unix time in seconds."""
    targets: tuple[Target, ...]
    is_unreadable: bool = False
    """Whether a route is missing because the server's credential can't be decrypted."""


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

        The version is read first. A change between the queries may be in the snapshot already, but
        its version is not, so the snapshot is read again.
        """
        version = CatalogVersion.objects.using(using).filter(pk=1)
        number = version.values_list("version", flat=True).first()
        targets: dict[int, list[Target]] = {}
        routes = Route.objects.using(using).usable()
        unreadable: set[int] = set()
        for route in routes.order_by("pk"):
            try:
                targets.setdefault(route.model_id, []).append(_target(route))
            except (CredentialUnreadable, ValidationError) as error:
                # One unusable upstream must not make other models unavailable.
                logger.error("Model server %s is not used: %s", route.upstream.name, error)
                if isinstance(error, CredentialUnreadable):
                    unreadable.add(route.model_id)
        circuit_breaker.forget_all_except(
            {to.fingerprint for some in targets.values() for to in some}
        )
        models = ServedModel.objects.using(using).select_related("team").order_by("name")
        return cls(
            number,
            {
                model.name: CatalogEntry(
                    name=model.name,
                    team_id=model.team_id,
                    owned_by=model.team.slug if model.team else "public",
                    created=int(model.created_at.timestamp()),
                    targets=tuple(targets.get(model.pk, ())),
                    is_unreadable=model.pk in unreadable,
                )
                for model in models
            },
        )


def _target(route: Route) -> Target:
    """Raises `CredentialUnreadable` or `ValidationError` if the server can't be used."""
    upstream = route.upstream
    # The row may have been written without the form, and decides where prompts go.
    validate_base_url(upstream.base_url)
    headers = upstream.server_headers
    return Target(
        upstream.fingerprint,
        upstream.base_url,
        headers,
        route.upstream_model,
        route.weight,
        upstream.connect_timeout,
        upstream.read_timeout,
        upstream.sends_keepalive,
        upstream.pk,
        upstream.takes_stream_options,
        upstream.first_byte_timeout,
        upstream.ca_file,
        upstream.client_certificate_file,
        upstream.name,
    )
