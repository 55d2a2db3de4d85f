"""What must follow when a user changes, and what others may want to know of sign-ins."""

from collections.abc import Collection

from allauth.account.models import EmailAddress
from django.db.models.signals import post_save
from django.dispatch import Signal, receiver

from keyportal.teams.models import User

# Too many attempts, so the password was not even looked at; sent with `request`, `credentials`.
sign_in_refused = Signal()
# An operator changed a team; sent with `former` and `team`, the `columns` that were saved, and who
# it was: `actor` and `address`, both None in a shell.
team_changed = Signal()


@receiver(post_save, sender=User)
def delete_former_email_addresses(
    instance: User, update_fields: Collection[str] | None = None, **_: object
) -> None:
    """A user has one address, `User.email`; allauth remembers each that it has ever seen.

    Without this, whoever holds a former address could still ask for a password reset there.
    """
    if update_fields is None or "email" in update_fields:
        EmailAddress.objects.filter(user=instance).exclude(email=instance.email.lower()).delete()
