"""Signals of sign-ins and team changes, and what ends with a membership, a user or an address."""

from collections.abc import Collection

from allauth.account.models import EmailAddress
from django.db.models.signals import post_delete, post_save, pre_save
from django.dispatch import Signal, receiver

from keyportal.teams.models import Membership, Session, Team, User

# A sign-in was refused after too many attempts, without a check of the password. Sent with
# `request` and `credentials`.
sign_in_refused = Signal()
# An operator changed a team. Sent with `former` and `team`, the names of the saved `columns`, and
# the operator's user as `actor` and IP address as `address`, both None for a command.
team_changed = Signal()
# A member or an operator created a team. Sent with the `team`, the `actor` and the `address`.
team_created = Signal()
# A team got another slug, under its lock. Sent with the `team`, whose slug is the new one, and the
# `former` slug. Receivers change what has the slug in it, and may raise `ValidationError`.
slug_changed = Signal()
# A team is being deleted, under its lock. Sent with the `team`, the `actor` and the `address`,
# before its rows are deleted. Receivers delete what keeps it from being deleted.
team_deleted = Signal()
# A user was deactivated, or removed from a team. Sent with the `user` and the `team_id`, None for
# all their teams, in the transaction of the change. Receivers end what would come back with them.
access_ended = Signal()

# Somebody signs in at an identity provider, with a verified `address` that no account has.
# Receivers return whether they may have one.
account_wanted = Signal()


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


@receiver(post_delete, sender=Membership)
def end_access_to_team(instance: Membership, origin: object = None, **_: object) -> None:
    # A deleted team has no pages any more, and its owner may have other teams.
    if not isinstance(origin, Team):
        end_sessions(instance.user)
    access_ended.send(Membership, user=instance.user, team_id=instance.team_id)


@receiver(pre_save, sender=User)
def note_deactivation(
    instance: User, update_fields: Collection[str] | None = None, **_: object
) -> None:
    """Whatever saves the user: Django's admin, a command or other code."""
    instance.was_active = None
    if update_fields is None or "is_active" in update_fields:
        instance.was_active = (
            User.objects.filter(pk=instance.pk).values_list("is_active", flat=True).first()
        )


@receiver(post_save, sender=User)
def end_access_of_deactivated_user(instance: User, **_: object) -> None:
    """Attack: a stolen session or key works again when its user is activated again."""
    if instance.was_active in (None, instance.is_active):
        return
    # Also when they are activated: a sign-in that was under way at the deactivation ended later.
    end_sessions(instance)
    if instance.is_active:
        # Or who deactivates them next by hand would leave it to the directory.
        User.objects.filter(pk=instance.pk).update(is_off_by_directory=False)
    else:
        access_ended.send(User, user=instance, team_id=None)


def end_sessions(user: User) -> None:
    """Sign the user out everywhere, for good."""
    Session.objects.filter(user_id=user.pk).delete()
