"""Disables the keys of a user who is deactivated or removed from a team."""

from django.db import transaction
from django.dispatch import receiver

from keyportal.audit.models import current_source
from keyportal.keys.changes import disable_locked
from keyportal.keys.models import ApiKey
from keyportal.teams.models import User
from keyportal.teams.signals import access_ended


@receiver(access_ended)
def disable_keys(user: User, team_id: int | None, **_: object) -> None:
    """For good: they don't work again when the user comes back, until an admin enables them.

    Attack: somebody who comes back, as a viewer, has a key that works and that nobody thinks of.
    """
    with transaction.atomic():
        for key in ApiKey.objects.lock_owned(user, team_id):
            disable_locked(key, **current_source())
