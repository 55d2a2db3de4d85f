"""The tables of users, teams and memberships."""

from keyportal.teams.models.membership import Membership, MembershipQuerySet, Role
from keyportal.teams.models.team import (
    FORMER_SLUG_WORKS,
    SLUG_TAKEN,
    Team,
    UsedSlug,
    default_max_keys,
    new_slug,
)
from keyportal.teams.models.user import EMAIL_TAKEN, Session, Theme, User, UserManager

__all__ = [
    "EMAIL_TAKEN",
    "FORMER_SLUG_WORKS",
    "SLUG_TAKEN",
    "Membership",
    "MembershipQuerySet",
    "Role",
    "Session",
    "Team",
    "Theme",
    "UsedSlug",
    "User",
    "UserManager",
    "default_max_keys",
    "new_slug",
]
