"""Whether a key keeps to its team's policy: when it is made or changed, and in the list of those
that were there before."""

from datetime import timedelta
from typing import TYPE_CHECKING

from django.utils import timezone

from keyportal.keys.permissions import Endpoints, NamePatterns, Permissions, covers_models
from keyportal.teams.models import Role, Team
from keyportal.teams.policy import Policy

if TYPE_CHECKING:
    from keyportal.keys.models import ApiKey

# A date that somebody chose is the end of a day, and the form was open for a while.
LEEWAY = timedelta(days=1)


def widest(policy: Policy) -> Permissions:
    """What a new key may do where nobody says so: as much as the policy allows."""
    opened = [Endpoints(one) for one in policy.endpoints]
    endpoints = Endpoints.ALL if not opened or Endpoints.ALL in opened else opened[0]
    return Permissions(policy.models, endpoints)


def breaches(policy: Policy, key: "ApiKey") -> list[str]:
    """A sentence for each rule that the key doesn't keep."""
    told = [*_of_lifetime(policy, key), *_of_permissions(policy, key.permissions)]
    if policy.name_pattern and key.name not in NamePatterns([policy.name_pattern]):
        told.append(f"Names of keys in this team look like {policy.name_pattern}.")
    return told


def _of_lifetime(policy: Policy, key: "ApiKey") -> list[str]:
    if key.expires_at is None:
        must = policy.must_expire or policy.longest_days is not None
        return ["Keys of this team must expire."] if must else []
    if policy.longest_days is None:
        return []
    longest = timedelta(days=policy.longest_days) + LEEWAY
    if key.expires_at > timezone.now() + longest:
        return [f"Keys of this team live for at most {policy.longest_days} days."]
    return []


def _of_permissions(policy: Policy, permissions: Permissions) -> list[str]:
    told = []
    if not covers_models(policy.models, permissions.models):
        told.append(f"Keys of this team may call: {', '.join(policy.models)}.")
    opened = [Endpoints(one) for one in policy.endpoints]
    if opened and not any(one.covers(permissions.endpoints) for one in opened):
        labels = "; ".join(one.label for one in opened)
        told.append(f"Endpoints that keys of this team may have: {labels}.")
    return told


def breaches_by_owning(team: Team, owner_id: int, role: Role | None) -> list[str]:
    """Of somebody who is to get one more key; `role` is the maker's, None for an operator.

    The team's row is locked meanwhile, or two could each get the last one.
    """
    from keyportal.keys.models import ApiKey

    policy: Policy = team.policy
    told = []
    if role is not None and role.rank < Role(policy.creators).rank:
        told.append(f"In this team, keys are made by: {Role(policy.creators).label} and above.")
    most = policy.keys_per_member
    if most is not None and ApiKey.objects.of(team).filter(owner=owner_id).count() >= most:
        told.append(f"Each member of this team has at most {most} keys.")
    return told
