"""Model servers (upstreams), served models, and the routes between them."""

import contextlib
import hashlib
import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.dispatch import receiver

from keyportal.audit.models import Action, AuditEvent, current_source
from keyportal.catalog import credentials, headers
from keyportal.catalog.addresses import is_metadata_address
from keyportal.catalog.aliases import NAME_VALIDATORS, Alias
from keyportal.catalog.headers import CredentialHeader, ServerHeaders
from keyportal.catalog.servers.health import Health, ModelHealth
from keyportal.catalog.tls import tls_context
from keyportal.keys.keystring import require_no_key
from keyportal.teams.models import Team

BUILT_IN_URL = "loopback:"  # The base URL of the built-in demo model, which needs no server.


def validate_base_url(url: str) -> None:
    """Allow http(s) URLs with a host and without user, fragment or metadata address.

    Loopback and private addresses are allowed, because model servers have them.
    """
    if url == BUILT_IN_URL:
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise ValidationError(f"{url} is not a URL: {error}.") from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or re.search(r"\s", url):
        raise ValidationError(f"{url} is not an http:// or https:// URL with a host.")
    if parts.username or parts.password or parts.fragment:
        raise ValidationError("A base URL can't have a user, password or fragment.")
    if is_metadata_address(parts.hostname):
        raise ValidationError(
            "Link-local and cloud metadata addresses are not allowed: they are never model servers."
        )


def validate_absolute_path(path: str) -> None:
    """A relative path would depend on the folder in which the server was started."""
    if not Path(path).is_absolute():
        raise ValidationError(f"{path} is not an absolute path.")


class Upstream(models.Model):
    """A model server that speaks the OpenAI protocol."""

    name = models.CharField(max_length=64, validators=[require_no_key])
    team = models.ForeignKey(
        Team,
        models.CASCADE,
        null=True,
        blank=True,
        editable=False,
        related_name="servers",
        help_text="The team whose admins have added it, for models of the team only.",
    )
    base_url = models.CharField(
        "base URL",
        max_length=500,
        validators=[validate_base_url, require_no_key],
        help_text="As for an OpenAI client, such as http://127.0.0.1:8001/v1.",
    )
    encrypted_credential = models.TextField(blank=True, editable=False)
    credential_header = models.CharField(
        max_length=16,
        choices=CredentialHeader,
        default=CredentialHeader.AUTHORIZATION,
        help_text="The header in which this model server expects its credential.",
    )
    encrypted_headers = models.TextField(blank=True, editable=False)
    takes_stream_options = models.BooleanField(
        "takes stream_options",
        default=True,
        help_text="Streams are asked for their usage with stream_options. Without it, the usage "
        "of streams is estimated if the server doesn't report it by itself.",
    )
    connect_timeout = models.FloatField(
        default=5,
        validators=[MinValueValidator(0.1), MaxValueValidator(60)],
        help_text="Seconds until a connection must be open.",
    )
    first_byte_timeout = models.FloatField(
        default=600,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds until the answer must begin.",
    )
    read_timeout = models.FloatField(
        default=600,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds for which the server may send nothing once its answer has begun.",
    )
    ca_file = models.CharField(
        "CA file",
        max_length=500,
        blank=True,
        validators=[validate_absolute_path],
        help_text="Path of a PEM file on this server. Only the CAs in it are trusted for this "
        "model server. Empty: those that the system trusts.",
    )
    client_certificate_file = models.CharField(
        max_length=500,
        blank=True,
        validators=[validate_absolute_path],
        help_text="Path of a PEM file on this server with a certificate and its private key, if "
        "the model server asks for one.",
    )
    sends_keepalive = models.BooleanField(
        "keep-alive comments",
        default=True,
        help_text="While a stream of this server is silent, send comments to the caller, so that "
        "no proxy closes the connection. Turn it off if a client can't read comments.",
    )
    is_active = models.BooleanField(
        default=True,
        help_text="A server that is switched off gets no new calls. Running calls end as usual.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = "model server"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["team", "name"], name="upstream_unique"),
            models.UniqueConstraint(
                fields=["name"], condition=models.Q(team=None), name="upstream_of_all_unique"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def full_name(self) -> str:
        """The only one of this name, for logs and pages that show servers of several teams."""
        return f"{self.team.slug}/{self.name}" if self.team else self.name

    def clean(self) -> None:
        # The database's constraints are not checked in forms, which have no field for the team.
        same_name = Upstream.objects.filter(team=self.team, name=self.name).exclude(pk=self.pk)
        if same_name.exists():
            raise ValidationError({"name": "Model server with this Name already exists."})
        self.check_team_address()
        self._require_secrets_again()
        self._check_certificate_files()
        # If a stored secret can't be decrypted, the server is not used, and the log says why.
        with contextlib.suppress(credentials.CredentialUnreadable):
            _ = self.server_headers

    def check_team_address(self) -> None:
        """Refuse a server of a team that the operators don't allow. Of its addresses, only one that
        is typed as such is judged here, and all when a connection is opened.
        """
        if self.team_id is None:
            return
        if not settings.TEAM_SERVERS:
            raise ValidationError("The operators have switched off model servers of teams.")
        parts = urlsplit(self.base_url)
        if parts.scheme != "https":
            raise ValidationError({"base_url": "The model server of a team needs https://."})
        if not settings.TEAM_SERVERS.allows_name(parts.hostname or ""):
            raise ValidationError(
                {"base_url": f"The operators don't allow teams to add {parts.hostname}."}
            )
        # Attack: a path tells which files this machine has, and names another server's key.
        if self.ca_file or self.client_certificate_file:
            raise ValidationError("The model server of a team can't have certificate files.")

    def _require_secrets_again(self) -> None:
        """If the base URL changes. Attack: the new server would get the old server's secrets."""
        stored = Upstream.objects.filter(pk=self.pk).exclude(base_url=self.base_url).first()
        for secret, name in (
            ("encrypted_credential", "credential"),
            ("encrypted_headers", "headers"),
        ):
            if stored and getattr(self, secret) == getattr(stored, secret) != "":
                raise ValidationError(
                    f"The base URL of {self} changes: enter its {name} again, or delete them, so "
                    f"that nothing is sent to another server by accident."
                )

    def _check_certificate_files(self) -> None:
        """Refuse files that can't be used, and files without https, which would not be used."""
        files = (self.ca_file, self.client_certificate_file)
        if not any(files):
            return
        if urlsplit(self.base_url).scheme != "https":
            raise ValidationError("Certificate files are used with https:// only.")
        try:
            tls_context(*files)
        except (OSError, ValueError) as error:
            raise ValidationError(str(error)) from error

    @property
    def fingerprint(self) -> str:
        """A hash of the settings that decide whether calls to this server succeed.

        The circuit breaker's state is stored by it, so a server whose settings change starts anew.
        """
        secrets = (self.encrypted_credential, self.encrypted_headers, str(self.credential_header))
        files = (self.ca_file, self.client_certificate_file)
        others = (self.base_url, *secrets, *files, self.takes_stream_options)
        timeouts = (self.connect_timeout, self.first_byte_timeout, self.read_timeout)
        values = (self.pk, *others, *map(float, timeouts))
        return hashlib.sha256(repr(values).encode()).hexdigest()

    @property
    def credential(self) -> str:
        """The decrypted bearer token for this server; empty for none.

        Raises `credentials.CredentialUnreadable` if no configured key decrypts it.
        """
        return credentials.decrypt(self.encrypted_credential)

    @credential.setter
    def credential(self, plaintext: str) -> None:
        self.encrypted_credential = credentials.encrypt(plaintext)

    @property
    def headers(self) -> str:
        """The decrypted headers of an operator, one `Name: value` a line.

        Raises `credentials.CredentialUnreadable`.
        """
        return credentials.decrypt(self.encrypted_headers)

    @headers.setter
    def headers(self, text: str) -> None:
        self.encrypted_headers = credentials.encrypt(text)

    @property
    def server_headers(self) -> ServerHeaders:
        """What goes with each call. Raises `ValidationError` or `CredentialUnreadable`."""
        added = headers.parse(self.headers)
        return headers.combine(added, self.credential, self.credential_header)


class NameTaken(Exception):
    """A model with this name exists for another team or for all teams."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} already exists for another team, or for all teams.")


def _usable_routes(routes: str, model_team: models.F) -> models.Q:
    """The condition of a route that gets calls. `routes` is what its columns begin with.

    Attack: a route leads calls of other teams to the server of one team, whoever made it.
    """
    is_on = {f"{routes}weight__gt": 0, f"{routes}upstream__is_active": True}
    is_allowed = models.Q(**{f"{routes}upstream__team": None})
    if settings.TEAM_SERVERS:
        is_allowed |= models.Q(**{f"{routes}upstream__team": model_team})
    return models.Q(is_allowed, **is_on)


class ServedModelQuerySet(models.QuerySet["ServedModel"]):
    def callable_by(self, team: Team) -> "ServedModelQuerySet":
        """The team's own models and the public ones, by name; only those with a usable route."""
        own_or_public = models.Q(team=team) | models.Q(team=None)
        usable = _usable_routes("routes__", models.F("team"))
        allowed = models.Q(only_teams=None) | models.Q(only_teams=team)
        return self.filter(own_or_public, allowed, usable).distinct().order_by("name")

    def serve(
        self, name: str, *, team: Team | None, upstream: Upstream, upstream_model: str
    ) -> "ServedModel":
        """Serve the upstream's model as `name`: add a route, and the served model if it is new.

        Idempotent. Raises `NameTaken`, or `ValidationError` for an invalid name.
        """
        ServedModel(name=name, team=team).clean_fields(exclude=["team"])
        Route(upstream_model=upstream_model).clean_fields(exclude=["model", "upstream"])
        if self.serve_many({name: upstream_model}, team=team, upstream=upstream):
            raise NameTaken(name)
        return self.get(name=name)

    def serve_many(
        self, upstream_models: dict[str, str], *, team: Team | None, upstream: Upstream
    ) -> set[str]:
        """Serve the upstream's models under these names, which are valid. Idempotent.

        The keys are the names, the values the models' names on the upstream. Returns the names
        that other teams, or all teams, have: these are not served. Call it in a transaction. It
        needs the same few queries for any number of names.
        """
        if upstream.team_id and upstream.team != team:
            raise ValueError("The server of a team serves models of this team only.")
        names = upstream_models.keys()
        teams = dict(self.filter(name__in=names).values_list("name", "team_id"))
        team_id = team.pk if team else None
        taken = {name for name, owner in teams.items() if owner != team_id}
        if upstream.team_id:
            taken |= self._served_by_operators(names)
        new = sorted(names - teams.keys())
        self.bulk_create(ServedModel(name=name, team=team) for name in new)
        models = dict(self.filter(name__in=names - taken).values_list("name", "pk"))
        existing = set(
            Route.objects.filter(upstream=upstream, model__in=models.values()).values_list(
                "model__name", "upstream_model"
            )
        )
        routes = [
            Route(model_id=models[name], upstream=upstream, upstream_model=upstream_model)
            for name, upstream_model in upstream_models.items()
            if name in models and (name, upstream_model) not in existing
        ]
        Route.objects.bulk_create(routes)
        # Bulk operations send no signal.
        change_version()
        AuditEvent.objects.record_changes(
            Action.CATALOG_CHANGED,
            target=f"Model server {upstream}",
            team=upstream.team,
            changes=[f"model added: {name}" for name in new]
            + [f"route added: {route.upstream_model}" for route in routes],
            **current_source(),
        )
        return taken

    def _served_by_operators(self, names: Iterable[str]) -> set[str]:
        """Attack: an admin leads some of the calls to an operators' server to one of their own."""
        served = self.filter(name__in=names, routes__isnull=False, routes__upstream__team=None)
        return set(served.values_list("name", flat=True))

    def only_by_team_server(self, upstream: Upstream) -> "ServedModelQuerySet":
        """The models that nothing but this server of a team serves; none for other servers."""
        if upstream.team_id is None:
            return self.none()
        elsewhere = Route.objects.exclude(upstream=upstream).values("model")
        return self.filter(routes__upstream=upstream).exclude(pk__in=elsewhere).distinct()

    def with_upstreams(self) -> "ServedModelQuerySet":
        return self.prefetch_related(models.Prefetch("routes", Route.objects.usable()))

    def for_display(self) -> "ServedModelQuerySet":
        """With their successor, and with `is_for_some`: whether only chosen teams may call it."""
        groups = ServedModel.only_teams.through.objects.filter(servedmodel=models.OuterRef("pk"))
        is_for_some = models.Exists(groups)
        return self.select_related("successor").annotate(is_for_some=is_for_some)

    def best_first(self) -> "ServedModelQuerySet":
        """For examples: the built-in demo model last, then the team's own before public ones."""
        real = Route.objects.usable().exclude(upstream__base_url=BUILT_IN_URL)
        is_real = models.Exists(real.filter(model=models.OuterRef("pk")))
        own = models.F("team").asc(nulls_last=True)
        return self.annotate(is_real=is_real).order_by("-is_real", own, "name")


class ServedModel(models.Model):
    """A model name that callers use, such as `u-8105f7322477/test` or `public/deepseek-r1`."""

    name = models.CharField(
        max_length=200,
        unique=True,
        validators=NAME_VALIDATORS,
    )
    team = models.ForeignKey(
        Team,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="models",
        help_text="Leave empty for a public model, which every team may call.",
    )
    only_teams = models.ManyToManyField(
        Team,
        blank=True,
        related_name="+",
        help_text="The only teams that may call this public model. None: all teams.",
    )
    description = models.CharField(max_length=500, blank=True, validators=[require_no_key])
    context_length = models.PositiveIntegerField(
        null=True, blank=True, help_text="Tokens of prompt and answer together."
    )
    takes_pictures = models.BooleanField(default=False)
    takes_tools = models.BooleanField(default=False)
    prices = models.CharField(
        max_length=100,
        blank=True,
        validators=[require_no_key],
        help_text="Such as: 0.50 $ in, 1.50 $ out per million tokens.",
    )
    deprecated_at = models.DateTimeField(null=True, blank=True, editable=False)
    retires_on = models.DateField(
        "goes away on",
        null=True,
        blank=True,
        help_text="From this day (UTC) on, callers must not count on the model.",
    )
    successor = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ServedModelQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    def health_in(self, health: Health) -> ModelHealth:
        """Load lists with `with_upstreams`."""
        return health.of_model(
            (route.upstream.fingerprint, route.upstream_model) for route in self.routes.all()
        )


class RouteQuerySet(models.QuerySet["Route"]):
    def usable(self) -> "RouteQuerySet":
        """Those that get calls, with their upstreams."""
        usable = _usable_routes("", models.F("model__team"))
        return self.filter(usable).select_related("upstream__team")


class Route(models.Model):
    """An upstream that answers calls to a served model, and the model's name there."""

    model = models.ForeignKey(ServedModel, models.CASCADE, related_name="routes")
    upstream = models.ForeignKey(
        Upstream, models.CASCADE, related_name="routes", verbose_name="model server"
    )
    upstream_model = models.CharField(
        max_length=200,
        validators=[require_no_key],
        help_text="The model's name on the upstream server.",
    )
    weight = models.PositiveSmallIntegerField(
        default=1,
        help_text="Share of the model's calls, relative to its other routes. 0: no calls.",
    )

    objects = RouteQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["model", "upstream", "upstream_model"], name="route_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.model} → {self.upstream}/{self.upstream_model}"


class CatalogVersion(models.Model):
    """One row with a random number, changed with the catalog, so that workers read it again.

    It changes in the same transaction as the catalog. It is not a counter: after a restored backup
    a counter would reach an old number again, with another catalog.
    """

    version = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.version)


@receiver([post_save, post_delete], sender=Alias)
@receiver(m2m_changed, sender=ServedModel.only_teams.through)
@receiver([post_save, post_delete], sender=Upstream)
@receiver([post_save, post_delete], sender=ServedModel)
@receiver([post_save, post_delete], sender=Route)
def change_version(**_: object) -> None:
    CatalogVersion.objects.update_or_create(pk=1, defaults={"version": secrets.randbits(62)})
