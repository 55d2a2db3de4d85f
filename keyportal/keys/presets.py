"""What a team gives new keys of a kind, under a name: "CI job", "read only"."""

from typing import ClassVar

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q

from keyportal.keys.names import require_no_key, require_printable
from keyportal.keys.permissions import Endpoints, Permissions
from keyportal.teams.models import Team


class PresetQuerySet(models.QuerySet["Preset"]):
    def of(self, team: Team) -> "PresetQuerySet":
        return self.filter(team=team).order_by("name")


class Preset(models.Model):
    """A template for keys: chosen when one is made, and then forgotten."""

    team = models.ForeignKey(Team, models.CASCADE, related_name="presets")
    name = models.CharField(max_length=64, validators=[require_printable, require_no_key])
    allowed_models = models.JSONField(default=list, blank=True)
    endpoints = models.CharField(max_length=16, choices=Endpoints, default=Endpoints.ALL)
    networks = models.JSONField(default=list, blank=True)
    lifetime_days = models.PositiveIntegerField(
        null=True, blank=True, validators=[MinValueValidator(1), MaxValueValidator(3650)]
    )

    objects = PresetQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["team", "name"],
                name="preset_name_unique_in_team",
                violation_error_message="A template with this name already exists in the team.",
            ),
            models.CheckConstraint(
                condition=Q(endpoints__in=Endpoints.values), name="preset_endpoints_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def permissions(self) -> Permissions:
        return Permissions(
            tuple(self.allowed_models), Endpoints(self.endpoints), tuple(self.networks)
        )
