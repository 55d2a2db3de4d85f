"""Other names of served models."""

from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from django.core.validators import RegexValidator
from django.db import models

from keyportal.keys.keystring import require_no_key
from keyportal.teams.models import Team

NAME_VALIDATORS: list[Callable[[Any], None]] = [
    RegexValidator(
        # A part that is `.` or `..` has a meaning in a URL, such as `/v1/models/NAME`.
        r"\A[A-Za-z0-9][A-Za-z0-9._:@+-]*(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._:@+-]+)*\Z",
        "Use letters, digits and . _ : @ + - in parts separated by slashes, and no part "
        "that is . or .. alone.",
    ),
    require_no_key,
]

TAKEN = "This alias exists already."


class Alias(models.Model):
    """Another name of a served model, such as `gpt-4o`, for all teams or for one.

    A served model of that name goes first, also by a former name. What a key may call is judged by
    the model's own name.
    """

    name = models.CharField(max_length=200, validators=NAME_VALIDATORS)
    model = models.ForeignKey("catalog.ServedModel", models.CASCADE, related_name="aliases")
    team = models.ForeignKey(
        Team,
        models.CASCADE,
        null=True,
        blank=True,
        related_name="+",
        help_text="Leave empty for all teams. A team's own alias goes before one for all.",
    )

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["name", "team"], name="alias_unique", violation_error_message=TAKEN
            ),
            models.UniqueConstraint(
                fields=["name"],
                condition=models.Q(team=None),
                name="alias_for_all_unique",
                violation_error_message=TAKEN,
            ),
        ]

    def __str__(self) -> str:
        return self.name


def aliases_for(team: Team, models_: Iterable[models.Model]) -> dict[int, list[str]]:
    """The other names by which this team finds these models, by the models' ids."""
    for_team = models.Q(team=team) | models.Q(team=None)
    # Those for all teams first, so that the team's own goes before them.
    rows = Alias.objects.filter(for_team).order_by(models.F("team").asc(nulls_first=True))
    found = dict(rows.values_list("name", "model_id"))
    names: dict[int, list[str]] = {model.pk: [] for model in models_}
    for name, model_id in sorted(found.items()):
        if model_id in names:
            names[model_id].append(name)
    return names
