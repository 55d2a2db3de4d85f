"""Remove a member, or let them leave, and hand their keys over first."""

from collections.abc import Mapping
from typing import NamedTuple

from django.db import transaction

from keyportal.keys.changes import hand_over
from keyportal.keys.last_use import last_used_times
from keyportal.keys.models import ApiKey, ApiKeyQuerySet
from keyportal.teams.access import Actor, lock_team
from keyportal.teams.membership.changes import remove
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.usage.impact import requests_last_day

MAX_LISTED = 100


class KeyRow(NamedTuple):
    key: ApiKey
    calls: int
    last_used_at: object


def keys_of(membership: Membership) -> ApiKeyQuerySet:
    """The keys that stop when the member goes."""
    return ApiKey.objects.for_team(membership.team).filter(owner=membership.user_id)


def key_rows(membership: Membership) -> list[KeyRow]:
    """The first keys by name, each with its calls of the last 24 hours and its last use."""
    keys = [*keys_of(membership).for_display().order_by("name")[:MAX_LISTED]]
    calls = requests_last_day(membership.team, [key.public_id for key in keys])
    times = last_used_times(keys)
    return [KeyRow(key, calls.get(key.public_id, 0), times.get(key.public_id)) for key in keys]


def possible_owners(membership: Membership) -> list[User]:
    """The other members who can own keys."""
    roles = [role for role in Role if role.rank >= Role.MEMBER.rank]
    others = User.objects.filter(
        memberships__team=membership.team_id, memberships__role__in=roles, is_active=True
    )
    return [*others.exclude(pk=membership.user_id).order_by("username")]


def remove_member(
    team: Team,
    user: User,
    *,
    actor: Actor,
    address: str | None,
    to: User | None = None,
    by_key: Mapping[str, User | None] | None = None,
) -> None:
    """Hand the keys over and remove the member, or do neither.

    `to` gets all keys, except those of programs, which end with the session of the member, and
    those whose public id is in `by_key`: None there means that the key stops. Raises what
    `membership.changes.remove` and `keys.changes.hand_over` raise.
    """
    chosen = by_key or {}
    with transaction.atomic(), lock_team(team, actor=actor, role=Role.VIEWER) as locked:
        keys = (
            ApiKey.objects.for_team(locked)
            .filter(owner=user)
            .select_related("team", "program_sign_in")
        )
        for key in keys.order_by("pk") if to or any(chosen.values()) else ():
            if owner := chosen.get(key.public_id, None if key.is_of_program else to):
                hand_over(key, owner, actor=actor, address=address)
        remove(locked, user, actor=actor)
