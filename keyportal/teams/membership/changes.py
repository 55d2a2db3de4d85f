"""Change and remove members of a team, in one place for pages, API, commands and jobs.

A team that has an owner keeps one. All changes take the lock on the team first, so of two owners
who leave at the same moment one stays.
"""

from django.core.exceptions import ValidationError
from django.db.models import Exists, OuterRef, QuerySet

from keyportal.teams.access import Actor, lock_membership, lock_team, require_grant
from keyportal.teams.models import Membership, Role, Team, User


class Refused(ValidationError):
    """Nothing was changed. The message is for people."""


class IsServiceAccount(Refused):
    def __init__(self) -> None:
        super().__init__(
            "A service account is always a member. Delete it on the page Service accounts."
        )


class LastOwner(Refused):
    """The team would have no owner."""

    def __init__(self, user: User) -> None:
        name = user.get_username()
        super().__init__(
            f"{name} is the last owner of the team. Make somebody else an owner first."
        )


def change_role(team: Team, user: User, role: Role, *, actor: Actor) -> Membership:
    """Raises `Refused`, `Outsider` if the user is no member, and what `lock_team` and
    `require_grant` raise.
    """
    with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
        membership = _lock_person(locked, user)
        require_grant(actor, locked, membership.role, role)
        if membership.role == role:
            return membership
        require_other_owner(membership)
        membership.role = role
        membership.save(update_fields=["role"])
    return membership


def remove(team: Team, user: User, *, actor: Actor) -> None:
    """Remove a member, or let them leave if they are the actor. Their keys stop with the next
    request.

    Raises the same as `change_role`.
    """
    is_leaving = isinstance(actor, User) and actor.pk == user.pk
    with lock_team(team, actor=actor, role=Role.VIEWER if is_leaving else Role.ADMIN) as locked:
        membership = _lock_person(locked, user)
        if not is_leaving:
            require_grant(actor, locked, membership.role)
        require_other_owner(membership)
        membership.delete()


def _lock_person(team: Team, user: User) -> Membership:
    membership = lock_membership(team, user, may_be_inactive=True)
    if membership.user.is_service_account:
        raise IsServiceAccount
    return membership


def require_other_owner(membership: Membership) -> None:
    """Raises `LastOwner` if no active owner would be left. The caller has locked the team."""
    for owner in last_owners(Membership.objects.filter(pk=membership.pk)):
        raise LastOwner(owner.user)


def last_owners(memberships: QuerySet[Membership]) -> list[Membership]:
    """The owners among these without whom their team would have no active owner.

    An owner who is deactivated does not count, and can go.
    """
    active = Membership.objects.filter(role=Role.OWNER, user__is_active=True)
    others = active.filter(team=OuterRef("team")).exclude(pk__in=memberships.values("pk"))
    owners = active.filter(pk__in=memberships.values("pk")).exclude(Exists(others))
    return [*owners.select_related("user", "team").order_by("pk")]
