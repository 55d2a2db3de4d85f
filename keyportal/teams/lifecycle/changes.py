"""Create, change and delete a team. Each act is judged under a lock, and audited."""

from collections.abc import Callable
from copy import copy

from django.conf import settings
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from keyportal.teams.access import Actor, lock_team
from keyportal.teams.models import SLUG_TAKEN, Membership, Role, Team, UsedSlug, User
from keyportal.teams.signals import slug_changed, team_changed, team_created, team_deleted


def rename(
    team: Team,
    name: str,
    *,
    actor: Actor,
    address: str | None = None,
    check: Callable[[Team], None] = lambda _: None,
) -> None:
    """Change the name. `check` gets the locked row, and may raise.

    Raises `ValidationError`, and what `lock_team` raises, for an actor who is no admin.
    """
    with lock_team(team, actor=actor, role=Role.ADMIN) as locked:
        check(locked)
        _save(locked, "name", name, actor, address)


def change_slug(
    team: Team,
    slug: str,
    *,
    actor: Actor,
    address: str | None = None,
    check: Callable[[Team], None] = lambda _: None,
) -> None:
    """Give the team another slug. Only for owners. `check` gets the locked row, and may raise.

    The names of its models and service accounts, and the patterns of models in its keys, follow.
    Addresses and model names with the former slug work on for `FORMER_SLUG_WORKS`, and no other
    team ever gets it. Raises `ValidationError`.
    """
    try:
        with lock_team(team, actor=actor, role=Role.OWNER) as locked:
            check(locked)
            former = locked.slug
            if slug == former:
                return
            locked.slug = slug
            locked.clean_fields()
            _replace_slug(locked, former)
            locked.slug = former
            _save(locked, "slug", slug, actor, address)
            for account in User.objects.filter(service_team=locked).order_by("pk"):
                account.username = f"{account.username.partition('@')[0]}@{slug}"
                account.full_clean(exclude={"password"})
                account.save(update_fields=["username"])
            slug_changed.send(Team, team=locked, former=former)
    except IntegrityError:
        # Another team took the slug at this moment.
        raise ValidationError(SLUG_TAKEN) from None


def _replace_slug(team: Team, former: str) -> None:
    """A team may get a slug back that it had before. Raises `ValidationError`."""
    used, _ = UsedSlug.objects.get_or_create(slug=team.slug, defaults={"team": team})
    if used.team_id != team.pk:
        raise ValidationError(SLUG_TAKEN)
    UsedSlug.objects.filter(pk=team.slug).update(replaced_at=None, is_end_known=False)
    UsedSlug.objects.filter(pk=former).update(replaced_at=Now())


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
    locked.clean_fields()
    locked.save(update_fields=[column])
    team_changed.send(
        Team, former=former, team=locked, columns=[column], actor=actor, address=address
    )
