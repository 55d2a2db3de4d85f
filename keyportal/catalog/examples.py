"""What the ready-to-run examples are filled with: this host, a model of the team, a key."""

from dataclasses import dataclass, field

from django.conf import settings
from django.http import HttpRequest

from keyportal.catalog.models import ServedModel
from keyportal.teams.models import Team

PLACEHOLDER_KEY = "{API_KEY}"
PLACEHOLDER_MODEL = "{MODEL}"


@dataclass(frozen=True)
class Examples:
    base_url: str
    model: str
    # A new key's plaintext may stand here; a debugger shows reprs, so it is left out of ours.
    key: str = field(default=PLACEHOLDER_KEY, repr=False)

    @property
    def has_model(self) -> bool:
        return self.model != PLACEHOLDER_MODEL


def own_address(request: HttpRequest) -> str:
    """Where we are, seen from outside, such as `https://keys.example.com`."""
    return settings.PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")


def examples_for(request: HttpRequest, team: Team, key: str = PLACEHOLDER_KEY) -> Examples:
    first = ServedModel.objects.callable_by(team).own_first().values_list("name", flat=True).first()
    return Examples(f"{own_address(request)}/v1", first or PLACEHOLDER_MODEL, key)
