"""Ends keys with what they depend on: their owner's membership, their team, a program's session.

Permissions follow a team to another slug.
"""

from django.db import transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver

from keyportal.audit.models import Action, AuditEvent, Tombstone
from keyportal.audit.source import current_source
from keyportal.keys.changes import disable_locked
from keyportal.keys.models import ApiKey, KeyTemplate, Secret
from keyportal.keys.programs.device_flow import end_with_session
from keyportal.keys.rules.renaming import rename_in_rows, renamed
from keyportal.teams.access import Actor
from keyportal.teams.models import Session, Team, User
from keyportal.teams.signals import access_ended, slug_changed, team_deleted

BATCH_SIZE = 1000


@receiver(post_delete, sender=Session)
def end_keys_of_programs(instance: Session, **_: object) -> None:
    """However the session ends: by signing out, a new password, its age, or an operator."""
    end_with_session(instance.session_key)


@receiver(access_ended)
def disable_keys(user: User, team_id: int | None, **_: object) -> None:
    """For good: they don't work again when the user comes back, until an admin enables them.

    Attack: somebody who comes back, as a viewer, has a key that works and that nobody thinks of.
    """
    with transaction.atomic():
        for key in ApiKey.objects.lock_owned(user, team_id):
            disable_locked(key, **current_source())


@receiver(team_deleted)
def delete_keys(team: Team, actor: Actor, address: str | None, **_: object) -> None:
    """Like `ApiKey.revoke` of each key, but in few queries: a team may have 100,000 keys.

    The caller has locked the team, so no key is created or changed meanwhile.
    """
    secrets = Secret.objects.filter(key__team=team)
    # In the order in which the meter of the gateway locks them.
    locked = secrets.order_by("pk").select_for_update(of=("self",)).select_related("key__team")
    Tombstone.objects.bulk_create(
        (secret.tombstone(secret.key, actor) for secret in locked), batch_size=BATCH_SIZE
    )
    keys = ApiKey.objects.for_team(team).order_by("pk")
    AuditEvent.objects.record_many(
        Action.KEY_DELETED, keys, actor=actor, team=team, address=address
    )
    secrets.delete()
    keys.delete()


@receiver(slug_changed)
def follow_slug(team: Team, former: str, **_: object) -> None:
    """Keys, templates and the policy go on to allow the same models."""
    for rows in (ApiKey.objects.for_team(team), KeyTemplate.objects.for_team(team)):
        rename_in_rows(rows, former, team.slug)
    if team.policy.models:
        team.policy = team.policy._replace(models=renamed(team.policy.models, former, team.slug))
        team.save(update_fields=["policy"])
