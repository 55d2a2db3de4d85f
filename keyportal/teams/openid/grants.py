"""Roles in teams that a person's groups at a provider give, and take back when they are gone.

A provider changes only what it gave itself: `Membership.granted_by` has its id. What was given by
hand stays, and a role that is changed by hand is by hand from then on.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from keyportal.teams.access import lock_team
from keyportal.teams.membership.changes import last_owners
from keyportal.teams.models import Membership, Role, Team, UsedSlug, User
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
    teams = teams_by_slug(named)
    for slug in named - teams.keys():
        logger.warning("The groups of %s give roles in the team %s, which is unknown", source, slug)
    given = Membership.objects.filter(user=user, granted_by=source).select_related("team")
    roles: dict[Team, Role | None] = {membership.team: None for membership in given}
    pairs = [pair for group in groups for pair in mapping.get(str(group), {}).items()]
    # The strongest role last, so that it counts.
    for slug, name in sorted(pairs, key=lambda pair: Role(pair[1]).rank):
        if slug in teams:
            roles[teams[slug]] = Role(name)
    # In one order, so that two sign-ins can't wait for each other.
    for team in sorted(roles, key=lambda team: team.pk):
        with suppress(Team.DoesNotExist):  # It has just been deleted.
            _apply_to(team, user, source, roles[team])


def teams_by_slug(slugs: Iterable[str]) -> dict[str, Team]:
    """Also by former slugs, for ever: nobody else gets them, and the settings may have them."""
    used = UsedSlug.objects.filter(slug__in=slugs, team__isnull=False).select_related("team")
    return {row.slug: row.team for row in used if row.team}


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
