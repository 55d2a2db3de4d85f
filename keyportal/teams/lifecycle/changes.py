"""Create, change and delete a team. Each act is judged under a lock, and audited."""

from collections.abc import Callable
from copy import copy

from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction

from keyportal.teams.access import Actor, lock_team
from keyportal.teams.models import SLUG_TAKEN, Membership, Role, Team, User
from keyportal.teams.signals import team_changed, team_created, team_deleted


def rename(
    team: Team,
    name: str,
    *,
    actor: Actor,
    address: str | None = None,
    check: Callable[[Team], None],
) -> None:
    """Change the name. `check` gets the locked row, and may raise.

    Raises what `lock_team` raises, for an actor who is no admin.
    """
    with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
        check(locked)
        _save(locked, "name", name, actor, address)


def switch_off(team: Team, *, actor: Actor, address: str | None = None) -> None:
    """Refuse the team's keys from the next request on. Only for owners; operators switch it on."""
    with lock_team(team, actor=actor, role=Role.OWNER) as locked:
        _save(locked, "is_active", False, actor, address)


class WrongName(Exception):
    def __init__(self, name: str) -> None:
        super().__init__(f"Enter the name of the team, {name}.")


def delete(team: Team, name: str, *, actor: Actor, address: str | None = None) -> None:
    """Delete the team with its keys, models and service accounts, for good. Only for owners.

    `name` is its name as the actor typed it: raises `WrongName`, also if it was renamed meanwhile.
    What happened stays in the history, and its slug is never used again.
    """
    with lock_team(team, actor=actor, role=Role.OWNER) as locked:
        if name != locked.name:
            raise WrongName(locked.name)
        team_deleted.send(Team, team=locked, actor=actor, address=address)
        for account in User.objects.filter(service_team=locked):
            account.delete()
        locked.delete()


MAX_OWNED = 20


def may_create(user: User) -> bool:
    return settings.TEAM_CREATION == "anyone" or user.is_superuser


def create(name: str, slug: str, *, actor: User, address: str | None = None) -> Team:
    """Create a team, whose first owner is the actor. An empty slug means a random one.

    Raises `PermissionDenied` if the actor may not, and `ValidationError` with the fields `name` and
    `slug`.
    """
    team = Team(name=name, **({"slug": slug} if slug else {}))
    try:
        with transaction.atomic():
            _require_creator(actor)
            team.full_clean()
            team.save()
            Membership.objects.create(team=team, user=actor, role=Role.OWNER)
            team_created.send(Team, team=team, actor=actor, address=address)
    except IntegrityError:
        # Another team took the slug after the check.
        raise ValidationError({"slug": SLUG_TAKEN}) from None
    return team


def _require_creator(actor: User) -> None:
    """Attack: a person makes teams without end, each with the keys and the limits of a new team.

    The lock on the user makes two requests of one person wait for each other.
    """
    user = User.objects.select_for_update(no_key=True).filter(pk=actor.pk, is_active=True).first()
    if user is None or not may_create(user):
        raise PermissionDenied("Only operators create teams here. Ask one.")
    owned = Membership.objects.filter(user=user, role=Role.OWNER).count()
    if owned >= MAX_OWNED and not user.is_superuser:
        raise PermissionDenied(f"You own {owned} teams already. Ask an operator for another one.")


def _save(locked: Team, column: str, value: object, actor: Actor, address: str | None) -> None:
    former = copy(locked)
    setattr(locked, column, value)
    locked.save(update_fields=[column])
    team_changed.send(
        Team, former=former, team=locked, columns=[column], actor=actor, address=address
    )
