"""Served models, and the routes from them to model servers."""

from collections.abc import Iterable
from typing import ClassVar

from django.conf import settings
from django.db import models

from keyportal.audit.models import Action, AuditEvent
from keyportal.audit.source import current_source
from keyportal.catalog.aliases import NAME_VALIDATORS, Alias
from keyportal.catalog.models.upstream import BUILT_IN_URL, Upstream
from keyportal.catalog.models.version import change_version
from keyportal.catalog.servers.health import Health, ModelHealth
from keyportal.keys.keystring import require_no_key
from keyportal.teams.models import Team


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
            taken |= _led_elsewhere(names - teams.keys(), upstream.team_id)
        new = sorted(names - teams.keys() - taken)
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


def _led_elsewhere(names: Iterable[str], team_id: int) -> set[str]:
    """The aliases that others have too. Attack: an owner takes the first part of an alias as slug,
    and a model of that name, which goes first, ends the alias for all other teams.
    """
    aliases = Alias.objects.filter(name__in=names).exclude(team=team_id)
    return set(aliases.values_list("name", flat=True))


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
