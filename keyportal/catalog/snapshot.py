"""The immutable copy of the catalog by which a worker routes calls."""

import logging
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from itertools import chain
from typing import NamedTuple, Self

from django.core.exceptions import ValidationError
from django.utils.http import http_date

from keyportal.catalog import circuit_breaker
from keyportal.catalog.aliases import Alias
from keyportal.catalog.credentials import CredentialUnreadable
from keyportal.catalog.former_names import former_names
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
    team_id: int = 0
    """Whose server it is; 0: the operators'."""


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
    only_teams: frozenset[int] = frozenset()
    """The only teams that may call this public model. Empty: all."""
    alias: str = ""
    """The other name by which it is found; empty for its own."""
    by_team: Mapping[int, "CatalogEntry"] = {}
    """What this name means to a team that has an alias of its own."""
    retires_on: date | None = None
    successor: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    """Of each answer: that the model is going away."""

    @property
    def id(self) -> str:
        """The name by which callers find it."""
        return self.alias or self.name

    def is_served_to(self, team_id: int) -> bool:
        """Whether the team may call it, if it has a route."""
        if self.team_id is not None:
            return self.team_id == team_id
        return not self.only_teams or team_id in self.only_teams


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
                logger.error("Model server %s is not used: %s", route.upstream.full_name, error)
                if isinstance(error, CredentialUnreadable):
                    unreadable.add(route.model_id)
        called: dict[str, set[str]] = {}
        for target in chain.from_iterable(targets.values()):
            called.setdefault(target.fingerprint, set()).add(target.model)
        circuit_breaker.forget_all_except(called)
        groups: dict[int, set[int]] = {}
        members = ServedModel.only_teams.through.objects.using(using)
        for model_id, team_id in members.values_list("servedmodel_id", "team_id"):
            groups.setdefault(model_id, set()).add(team_id)
        models = ServedModel.objects.using(using).select_related("team", "successor")
        entries = {
            model.name: CatalogEntry(
                name=model.name,
                team_id=model.team_id,
                owned_by=model.team.slug if model.team else "public",
                created=int(model.created_at.timestamp()),
                targets=tuple(targets.get(model.pk, ())),
                is_unreadable=model.pk in unreadable,
                only_teams=frozenset(groups.get(model.pk, ())),
                retires_on=model.retires_on,
                successor=model.successor.name if model.successor else "",
                headers=_lifecycle_headers(
                    model.deprecated_at or model.created_at, model.retires_on
                ),
            )
            for model in models.order_by("name")
        }
        by_name = _former_names(entries, using) | entries
        return cls(number, by_name | _aliases(by_name, using))


def _former_names(entries: Mapping[str, CatalogEntry], using: str) -> dict[str, CatalogEntry]:
    """The entries of names with a former slug, which say when they end."""
    found = {}
    for former in former_names(entries, using):
        entry = entries[former.now]._replace(alias=former.name)
        end = former.works_until.date()
        if entry.retires_on is None or entry.retires_on > end:
            headers = _lifecycle_headers(former.replaced_at, end)
            entry = entry._replace(retires_on=end, successor=former.now, headers=headers)
        found[former.name] = entry
    return found


def _aliases(entries: Mapping[str, CatalogEntry], using: str) -> dict[str, CatalogEntry]:
    """The entries of aliases. What has the name already goes first: a served model, also by a
    former name, so that no alias leads its callers elsewhere.
    """
    found: dict[str, CatalogEntry] = {}
    by_team: dict[str, dict[int, CatalogEntry]] = {}
    rows = Alias.objects.using(using).order_by("name")
    for name, team_id, model in rows.values_list("name", "team_id", "model__name"):
        if name in entries:
            continue
        entry = entries[model]._replace(alias=name)
        if not team_id:
            found[name] = entry
        else:
            by_team.setdefault(name, {})[team_id] = entry
    nothing = CatalogEntry("", None, "", 0, ())
    return found | {
        name: found.get(name, nothing)._replace(by_team=entries_of_teams)
        for name, entries_of_teams in by_team.items()
    }


def _lifecycle_headers(
    deprecated: datetime, retires_on: date | None
) -> tuple[tuple[bytes, bytes], ...]:
    """`Deprecation` as in RFC 9745, and `Sunset` as in RFC 8594."""
    if retires_on is None:
        return ()
    end = datetime.combine(retires_on, time(), UTC)
    return (
        (b"deprecation", b"@%d" % deprecated.timestamp()),
        (b"sunset", http_date(end.timestamp()).encode()),
    )


def _target(route: Route) -> Target:
    """Raises `CredentialUnreadable` or `ValidationError` if the server can't be used."""
    upstream = route.upstream
    # The row may have been written without the form, and decides where prompts go.
    validate_base_url(upstream.base_url)
    upstream.check_team_address()
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
        upstream.full_name,
        upstream.team_id or 0,
    )
