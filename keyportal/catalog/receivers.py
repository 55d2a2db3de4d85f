"""Records changes of model servers, served models and routes in the audit, and lets all workers
read the catalog again; renames the models of a team that gets another slug, and deletes those that
only a deleted team could call.
"""

from django.core.exceptions import ValidationError
from django.db.models.signals import m2m_changed, post_delete, post_save, pre_delete
from django.dispatch import receiver

from keyportal.audit.models import Action
from keyportal.audit.tracking import Tracked, track
from keyportal.catalog.aliases import Alias
from keyportal.catalog.former_names import rename_models
from keyportal.catalog.models import Route, ServedModel, Upstream, change_version
from keyportal.teams.models import Team
from keyportal.teams.signals import slug_changed

SECRETS = ("encrypted_credential", "encrypted_headers")
COLUMNS = tuple(
    field.name
    for field in Upstream._meta.concrete_fields
    if field.name not in {"id", "created_at", "team", *SECRETS}
)
MODEL_COLUMNS = tuple(
    field.name
    for field in ServedModel._meta.concrete_fields
    if field.name not in {"id", "created_at", "deprecated_at"}
)


@receiver([post_save, post_delete], sender=Alias)
@receiver(m2m_changed, sender=ServedModel.only_teams.through)
@receiver([post_save, post_delete], sender=Upstream)
@receiver([post_save, post_delete], sender=ServedModel)
@receiver([post_save, post_delete], sender=Route)
def let_workers_read_again(**_: object) -> None:
    change_version()


@receiver(slug_changed)
def follow_slug(team: Team, former: str, **_: object) -> None:
    try:
        rename_models(former, team.slug)
    except ValidationError as error:
        raise ValidationError(f"A model can't get this slug: {' '.join(error.messages)}") from None
    # Also without models, for workers that know the team's name as their owner.
    change_version()


@receiver(pre_delete, sender=Team)
def delete_models_of_no_other_team(instance: Team, **_: object) -> None:
    """As the team's own models.

    Attack: the owners of the only team that may call a model delete the team. Without a team in its
    list, the model would be for all. The lock on models lets two such teams go one after the other.

    The lock on the team is the full one, for which the foreign key of a list waits: an operator who
    makes it the only team of a model at this moment has done so before, or fails.
    """
    Team.objects.select_for_update().filter(pk=instance.pk).first()
    models = ServedModel.objects.filter(only_teams=instance).order_by("pk")
    for model in models.select_for_update(of=("self",)):
        if not model.only_teams.exclude(pk=instance.pk).exists():
            model.delete()


def _team_of(upstream: Upstream) -> Team | None:
    """Whose server it is; None also if the team was deleted, and the server with it."""
    return Team.objects.filter(pk=upstream.team_id).first() if upstream.team_id else None


track(
    Upstream,
    Tracked(
        Action.CATALOG_CHANGED,
        COLUMNS,
        secrets=SECRETS,
        target=lambda upstream: f"Model server {upstream.name}",
        team=_team_of,
    ),
)
track(
    ServedModel,
    Tracked(Action.CATALOG_CHANGED, MODEL_COLUMNS, target=lambda model: f"Model {model.name}"),
)
track(
    Alias,
    Tracked(Action.CATALOG_CHANGED, ("model", "team"), target=lambda alias: f"Alias {alias.name}"),
)
track(
    Route,
    Tracked(
        Action.CATALOG_CHANGED,
        ("model", "upstream", "upstream_model", "weight"),
        target=lambda route: f"Route {route}",
        team=lambda route: _team_of(route.upstream),
    ),
)
