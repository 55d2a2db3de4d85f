"""The values in the ready-to-run examples: this server's URL, a model of the team, a key."""

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
    # This may be a new key string. It is left out of the repr, which debuggers show.
    key: str = field(default=PLACEHOLDER_KEY, repr=False)

    @property
    def has_model(self) -> bool:
        return self.model != PLACEHOLDER_MODEL


def public_url(request: HttpRequest) -> str:
    """The URL of this server for its clients, such as `https://keys.example.com`."""
    return settings.PUBLIC_URL or request.build_absolute_uri("/").rstrip("/")


def examples_for(
    request: HttpRequest, team: Team, key: str = PLACEHOLDER_KEY, model: str = ""
) -> Examples:
    """With this model, or else the team's best, which is not the demo model if it has another."""
    models = ServedModel.objects.callable_by(team).best_first().values_list("name", flat=True)
    chosen = models.filter(name=model).first() if model else None
    first = chosen or models.first()
    return Examples(f"{public_url(request)}/v1", first or PLACEHOLDER_MODEL, key)
