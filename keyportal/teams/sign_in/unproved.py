"""Accounts whose address nobody proved, which are those of whoever proves it."""

from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator

from keyportal.teams.models import User
from keyportal.teams.signals import end_sessions


def give_to_owner_of_address(user: User) -> None:
    """An identity provider or a directory says whose the address is: end what others know.

    Attack: an admin invites another person's address, makes the account with the link that was
    shown and not mailed, and waits for the person.
    """
    if EmailAddress.objects.filter(user=user, verified=False).exists():
        Authenticator.objects.filter(user=user).delete()
        EmailAddress.objects.filter(user=user).update(verified=True)
        end_password(user)


def end_password(user: User) -> None:
    user.set_unusable_password()
    user.must_change_password = False
    user.save(update_fields=["password", "must_change_password"])
    end_sessions(user)
