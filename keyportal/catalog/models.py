"""What can be called: upstream servers, the names we serve, and the routes between them."""

import hashlib
import ipaddress
import re
import secrets
import socket
from typing import ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from keyportal.catalog import circuit_breaker, credentials
from keyportal.teams.models import Team

BUILT_IN_URL = "loopback:"  # The base URL of the built-in upstream, which needs no server.


def validate_base_url(url: str) -> None:
    """http(s), a host, no credentials, query or fragment; never a link-local address.

    Loopback and private addresses are where model servers live. A link-local address is where
    clouds keep the machine's own credentials (169.254.169.254), and never a model server.
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
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValidationError("A base URL holds no user, password, query or fragment.")
    if is_link_local(parts.hostname):
        raise ValidationError("Link-local addresses are refused: they are not model servers.")


def is_link_local(host: str) -> bool:
    address = _address(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return address is not None and bool((mapped or address).is_link_local)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that `host` spells, as resolvers read it: 2852039166 is 169.254.169.254."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None  # A name.


class Upstream(models.Model):
    """A model server that speaks the OpenAI protocol."""

    name = models.CharField(max_length=64, unique=True)
    base_url = models.CharField(
        "base URL",
        max_length=500,
        validators=[validate_base_url],
        help_text="As an OpenAI client takes it, such as http://127.0.0.1:8001/v1.",
    )
    encrypted_credential = models.TextField(blank=True, editable=False)
    connect_timeout = models.FloatField(
        default=5,
        validators=[MinValueValidator(0.1), MaxValueValidator(60)],
        help_text="Seconds until a connection must stand.",
    )
    read_timeout = models.FloatField(
        default=600,
        validators=[MinValueValidator(1), MaxValueValidator(3600)],
        help_text="Seconds that the server may be silent, before its answer and within it.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """The old server's credential must not be shown to a new one by accident."""
        stored = Upstream.objects.filter(pk=self.pk).exclude(base_url=self.base_url).first()
        if stored and self.encrypted_credential == stored.encrypted_credential != "":
            raise ValidationError(
                f"{self} has a credential, and its address changes: "
                f"give the credential again, or have it forgotten."
            )

    @property
    def fingerprint(self) -> str:
        """Another one after each change of what decides whether calls to this server succeed.

        The circuit breaker keeps its state under it, so a corrected server starts fresh.
        """
        settings = (self.base_url, self.encrypted_credential)
        timeouts = (float(self.connect_timeout), float(self.read_timeout))
        return hashlib.sha256(repr((self.pk, *settings, *timeouts)).encode()).hexdigest()

    @property
    def credential(self) -> str:
        """The bearer token that we show this server, in clear; empty for none.

        Raises `credentials.CredentialUnreadable` when no key that we have opens it.
        """
        return credentials.decrypt(self.encrypted_credential)

    @credential.setter
    def credential(self, plaintext: str) -> None:
        self.encrypted_credential = credentials.encrypt(plaintext)


class NameTaken(Exception):
    """The name is served already, to another team or to everybody."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} exists already, and not for those it would be served to now.")


class ServedModelQuerySet(models.QuerySet["ServedModel"]):
    def callable_by(self, team: Team) -> "ServedModelQuerySet":
        """The team's own models and the public ones that have a usable route, by name."""
        own_or_public = models.Q(team=team) | models.Q(team=None)
        return self.filter(own_or_public, routes__weight__gt=0).distinct().order_by("name")

    def serve(
        self, name: str, *, team: Team | None, upstream: Upstream, upstream_model: str
    ) -> "ServedModel":
        """Let `name` lead to the upstream's model, by one more route where it has others already.

        Doing it again changes nothing. Raises `NameTaken`, and `ValidationError` for
        a name that can't be served.
        """
        served = self.filter(name=name).first()
        if served is None:
            served = ServedModel(name=name, team=team)
            served.full_clean()
            served.save()
        elif served.team != team:
            raise NameTaken(name)
        route = {"model": served, "upstream": upstream, "upstream_model": upstream_model}
        if not Route.objects.filter(**route).exists():
            Route.objects.create(**route)
        return served

    def with_upstreams(self) -> "ServedModelQuerySet":
        usable = Route.objects.filter(weight__gt=0).select_related("upstream")
        return self.prefetch_related(models.Prefetch("routes", usable))

    def own_first(self) -> "ServedModelQuerySet":
        return self.order_by(models.F("team").asc(nulls_last=True), "name")


class ServedModel(models.Model):
    """A name that callers use, such as `u-8105f7322477/test` or `public/deepseek-r1`."""

    name = models.CharField(
        max_length=200,
        unique=True,
        validators=[
            RegexValidator(
                r"\A[A-Za-z0-9][A-Za-z0-9._:@+-]*(/[A-Za-z0-9._:@+-]+)*\Z",
                "Use letters, digits and . _ : @ + - in parts divided by slashes.",
            )
        ],
    )
    team = models.ForeignKey(
        Team,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="models",
        help_text="Empty: public, every team may call it.",
    )
    created_at = models.DateTimeField(auto_now_add=True)

    objects = ServedModelQuerySet.as_manager()

    def __str__(self) -> str:
        return self.name

    @property
    def health(self) -> str:
        """In this process's view; see `with_upstreams`."""
        return circuit_breaker.summary({route.upstream.fingerprint for route in self.routes.all()})


class Route(models.Model):
    """Where calls to a served model go, and what the upstream calls it."""

    model = models.ForeignKey(ServedModel, models.CASCADE, related_name="routes")
    upstream = models.ForeignKey(Upstream, models.CASCADE, related_name="routes")
    upstream_model = models.CharField(
        max_length=200, help_text="The model's name on the upstream server."
    )
    weight = models.PositiveSmallIntegerField(
        default=1, help_text="Its share of the calls, next to the model's other routes. 0: none."
    )

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["model", "upstream", "upstream_model"], name="route_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.model} → {self.upstream}/{self.upstream_model}"


class CatalogVersion(models.Model):
    """One row, drawn anew in the transaction of every change, so workers see that they are behind.

    Drawn, not counted: after a restored backup a counter would reach an old number with other
    contents behind it.
    """

    version = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.version)


@receiver([post_save, post_delete], sender=Upstream)
@receiver([post_save, post_delete], sender=ServedModel)
@receiver([post_save, post_delete], sender=Route)
def change_version(**_: object) -> None:
    CatalogVersion.objects.update_or_create(pk=1, defaults={"version": secrets.randbits(62)})
