"""Whether a key keeps to its team's policy: when it is made or changed, and in the list of those
that were there before."""

from collections.abc import Callable, Container
from datetime import timedelta
from typing import TYPE_CHECKING, Literal

from django.utils import timezone

from keyportal.audit.models import Action, AuditEvent
from keyportal.keys.rules.permissions import Endpoints, NamePatterns, Permissions, covers_models
from keyportal.teams.limits import Limits
from keyportal.teams.models import Role, Team, User, locked_rules
from keyportal.teams.policy import Policy

if TYPE_CHECKING:
    from keyportal.keys.models import ApiKey


TARGETS = {"policy": "Policy", "key_limits": "Limits of new keys"}


def set_rule(
    team: Team,
    column: Literal["policy", "key_limits"],
    rule: Policy | Limits,
    *,
    actor: User | None,
    address: str | None,
) -> None:
    """Of two that change it at once, the audit tells what each has changed."""
    with locked_rules(team) as locked:
        changes = rule.changes_from(getattr(locked, column))
        setattr(locked, column, rule)
        locked.save(update_fields=[column])
        AuditEvent.objects.record_changes(
            Action.TEAM_CHANGED,
            target=TARGETS[column],
            changes=changes,
            actor=actor,
            team=locked,
            address=address,
        )


# A date that somebody chose is the end of a day, and the form was open for a while.
LEEWAY = timedelta(days=1)


def widest(policy: Policy) -> Permissions:
    """What a new key may do where nobody says so: as much as the policy allows."""
    # The kinds are listed from the one that opens most.
    opened = [one for one in Endpoints if not policy.endpoints or one in policy.endpoints]
    return Permissions(policy.models, opened[0])


def breaches(policy: Policy, key: "ApiKey", of: Container[str] | None = None) -> list[str]:
    """A sentence for each rule that the key doesn't keep; only of these columns, if they are given.

    A key that was there before its team's policy keeps what it has, and gets no more of it: so
    whoever changes a column answers for that one alone.
    """
    return [
        sentence
        for column, rule in _RULES.items()
        if of is None or column in of
        for sentence in rule(policy, key)
    ]


def _of_lifetime(policy: Policy, key: "ApiKey") -> list[str]:
    if key.expires_at is None:
        within = f" within {policy.longest_days} days" if policy.longest_days else ""
        return [f"Keys of this team must expire{within}."] if policy.is_without_never else []
    if policy.longest_days is None:
        return []
    longest = timedelta(days=policy.longest_days) + LEEWAY
    if key.expires_at > timezone.now() + longest:
        return [f"Keys of this team live for at most {policy.longest_days} days."]
    return []


def _of_models(policy: Policy, key: "ApiKey") -> list[str]:
    if covers_models(policy.models, key.permissions.models):
        return []
    return [f"Keys of this team may call: {', '.join(policy.models)}."]


def _of_endpoints(policy: Policy, key: "ApiKey") -> list[str]:
    opened = [Endpoints(one) for one in policy.endpoints]
    if not opened or any(one.covers(key.endpoints) for one in opened):
        return []
    labels = "; ".join(one.label for one in opened)
    return [f"Endpoints that keys of this team may have: {labels}."]


def _of_name(policy: Policy, key: "ApiKey") -> list[str]:
    if not policy.name_pattern or key.name in NamePatterns([policy.name_pattern]):
        return []
    return [f"Names of keys in this team look like {policy.name_pattern}."]


# By the column that each rule is about.
_RULES: dict[str, Callable[[Policy, "ApiKey"], list[str]]] = {
    "expires_at": _of_lifetime,
    "allowed_models": _of_models,
    "endpoints": _of_endpoints,
    "name": _of_name,
}


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


def set_policy(
    team: Team, policy: Policy, *, actor: User | None, address: str | None = None
) -> None:
    """From now on keys of the team are made and changed by this policy; those there are stay."""
    set_rule(team, "policy", policy, actor=actor, address=address)
