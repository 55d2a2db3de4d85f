"""Signals of sign-ins and team changes, and the clean-up after a changed e-mail address."""

from collections.abc import Collection

from allauth.account.models import EmailAddress
from django.db.models.signals import post_save
from django.dispatch import Signal, receiver

from keyportal.teams.models import User

# A sign-in was refused after too many attempts, without a check of the password. Sent with
# `request` and `credentials`.
sign_in_refused = Signal()
# An operator changed a team. Sent with `former` and `team`, the names of the saved `columns`, and
# the operator's user as `actor` and IP address as `address`, both None for a command.
team_changed = Signal()


@receiver(post_save, sender=User)
def delete_former_email_addresses(
    instance: User, update_fields: Collection[str] | None = None, **_: object
) -> None:
    """Delete allauth's `EmailAddress` rows other than the current `User.email`.

    Attack: allauth keeps every address of a user, so the owner of a former address could still
    have a password reset sent there.
    """
    if update_fields is None or "email" in update_fields:
        EmailAddress.objects.filter(user=instance).exclude(email=instance.email.lower()).delete()
