"""Create, change and delete service accounts, under the lock on the team.

`audit.receivers` records the changes. All functions raise what `lock_team` raises for an actor who
is no admin.
"""

from collections.abc import Callable
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db.models import Count, QuerySet
from django.db.models.functions import Lower

from keyportal.teams.access import Actor, lock_team
from keyportal.teams.models import Membership, Role, Team, User

MAX_NAME_LENGTH = 40
require_name = RegexValidator(
    r"\A[a-z0-9]([a-z0-9-]*[a-z0-9])?\Z",
    "Use lower-case letters, digits and hyphens, with no hyphen at the start or end.",
)


class StillOwnsKeys(Exception):
    def __init__(self, count: int) -> None:
        keys = "1 key" if count == 1 else f"{count} keys"
        super().__init__(f"It owns {keys}. Hand them over or delete them first.")
        self.count = count


def service_accounts(team: Team) -> "QuerySet[Any]":
    """Users with `key_count`, by name."""
    accounts = User.objects.filter(service_team=team)
    return accounts.annotate(key_count=Count("keys")).order_by(Lower("username"))


def username(name: str, team: Team) -> str:
    """User names are unique in the installation, names of service accounts in their team."""
    return f"{name}@{team.slug}"


def create(team: Team, name: str, contact: str, *, actor: Actor) -> User:
    """Raises `ValidationError` with the fields `username` and `contact`."""
    with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
        user = User(username=username(name, locked), service_team=locked, contact=contact)
        user.set_unusable_password()
        _validate(user, name)
        user.save()
        Membership.objects.create(team=locked, user=user, role=Role.MEMBER)
    return user


def change_contact(
    account: User, contact: str, *, actor: Actor, check: Callable[[User], None] = lambda _: None
) -> User:
    """`check` gets the locked row, and may raise.

    Raises `ValidationError`, or `User.DoesNotExist` if it was deleted in the meantime.
    """
    with lock_team(_team(account), actor=actor, role=Role.ADMIN):
        row = _lock(account)
        check(row)
        row.contact = contact
        row.full_clean(exclude={"password"})
        row.save(update_fields=["contact"])
    return row


def delete(account: User, *, actor: Actor) -> None:
    """Raises `StillOwnsKeys`, or `User.DoesNotExist` if it was deleted in the meantime."""
    with lock_team(_team(account), actor=actor, role=Role.ADMIN):
        row = _lock(account)
        if count := row.keys.count():
            raise StillOwnsKeys(count)
        row.delete()


def _team(account: User) -> Team:
    return Team.objects.get(service_accounts=account)


def _lock(account: User) -> User:
    """Locks the user too, because keys that are handed over lock their new owner."""
    return User.objects.select_for_update(no_key=True).get(pk=account.pk)


def _validate(user: User, name: str) -> None:
    try:
        require_name(name)
    except ValidationError as error:
        raise ValidationError({"username": error.messages}) from None
    if not user.contact:
        raise ValidationError({"contact": "Enter an e-mail address."})
    user.full_clean(exclude={"password"})
