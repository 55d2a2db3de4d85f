"""Roles in teams that a person's groups at a provider give, and take back when they are gone.

A provider changes only what it gave itself: `Membership.granted_by` has its id. What was given by
hand stays, and a role that is changed by hand is by hand from then on.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from keyportal.teams.access import lock_team
from keyportal.teams.membership.changes import last_owners
from keyportal.teams.models import Membership, Role, Team, User
from keyportal.teams.openid.configuration import IdentityProvider

logger = logging.getLogger(__name__)
Groups = Mapping[str, Mapping[str, str]]
"""The role in each team, by slug, that each group gives."""


def groups_of(claims: Mapping[str, Any], provider: IdentityProvider) -> list[str] | None:
    """The names of the person's groups. None: the provider did not say which.

    Attack: a provider leaves the claim out when the last group is gone, so without it there are
    none. Only Microsoft Entra says that there are too many for the token.
    """
    elsewhere = claims.get("_claim_names")
    if isinstance(elsewhere, dict) and provider.groups_claim in elsewhere:
        logger.warning("%s sends no groups for somebody in too many of them", provider.id)
        return None
    groups = claims.get(provider.groups_claim)
    return [groups] if isinstance(groups, str) else groups if isinstance(groups, list) else []


def apply(user: User, source: str, mapping: Groups, groups: Iterable[Any]) -> None:
    """Give the user the roles of these groups, and take back what `source` gave them otherwise."""
    named = {slug for roles in mapping.values() for slug in roles}
    teams = {team.slug: team for team in Team.objects.filter(slug__in=named)}
    wanted = _strongest(mapping, groups)
    given = Membership.objects.filter(user=user, granted_by=source).select_related("team")
    for membership in given:
        slug = membership.team.slug
        # If a slug is unknown, its team may have got a new one, and must not lose its members.
        if slug in named or not named - teams.keys():
            teams[slug] = membership.team
    for slug in named - teams.keys():
        logger.warning("The groups of %s give roles in the team %s, which is unknown", source, slug)
    # In one order, so that two sign-ins can't wait for each other.
    for team in sorted(teams.values(), key=lambda team: team.pk):
        _apply_to(team, user, source, wanted.get(team.slug))


def _strongest(mapping: Groups, groups: Iterable[Any]) -> dict[str, Role]:
    """The strongest role in each team that one of the groups gives."""
    wanted: dict[str, Role] = {}
    given = [pair for group in groups for pair in mapping.get(str(group), {}).items()]
    for slug, name in sorted(given, key=lambda pair: Role(pair[1]).rank):
        wanted[slug] = Role(name)
    return wanted


def _apply_to(team: Team, user: User, source: str, role: Role | None) -> None:
    with lock_team(team, actor=None, role=Role.OWNER) as locked:
        User.objects.select_for_update(no_key=True).get(pk=user.pk)
        rows = Membership.objects.select_for_update(no_key=True)
        membership = rows.filter(team=locked, user=user).first()
        if membership is None:
            if role is not None:
                Membership.objects.create(team=locked, user=user, role=role, granted_by=source)
        elif membership.granted_by == source and membership.role != role:
            if last_owners(rows.filter(pk=membership.pk)):
                logger.warning("%s stays an owner of %s, which has no other", user, locked.slug)
            elif role is None:
                membership.delete()
            else:
                membership.role = role
                membership.save(update_fields=["role", "granted_by"])
