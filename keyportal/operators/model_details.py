"""What operators say of a served model: saved with its audit, and told to those it concerns."""

from collections.abc import Collection, Iterable

from django.db.models import Q
from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.audit.source import current_source
from keyportal.catalog.models import ServedModel, ServedModelQuerySet
from keyportal.operators.retirement import tell_callers
from keyportal.teams.models import Team


def possible_successors(model: ServedModel) -> ServedModelQuerySet:
    """Callers of the model read the name of its successor, so it is none of another team."""
    visible = Q(team=None) | Q(team=model.team) if model.team else Q(team=None)
    return ServedModel.objects.filter(visible).exclude(pk=model.pk).order_by("name")


def save_details(
    model: ServedModel, columns: Collection[str], only_teams: Iterable[Team] | None = None
) -> int:
    """Save these columns of the model, which the caller has locked, and its teams unless None.

    Returns how many owners of keys get a mail because the model goes away.
    """
    changed = {*columns}
    if "retires_on" in changed:
        model.deprecated_at = timezone.now() if model.retires_on else None
        changed.add("deprecated_at")
    if changed:
        model.save(update_fields=changed)
    if only_teams is not None:
        _save_teams(model, [*only_teams])
    is_news = {"retires_on", "successor"} & changed
    return tell_callers(model) if is_news and model.retires_on else 0


def _save_teams(model: ServedModel, only_teams: list[Team]) -> None:
    before, now = (
        ", ".join(sorted(team.slug for team in teams)) or "all teams"
        for teams in (model.only_teams.all(), only_teams)
    )
    model.only_teams.set(only_teams)
    AuditEvent.objects.record_changes(
        Action.CATALOG_CHANGED,
        target=f"Model {model}"[:100],
        changes=[f"Only for: {before} → {now}"],
        **current_source(),
    )
